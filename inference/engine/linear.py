"""Matrix products with weights in fp32, bf16 or int8, chosen by what is fast. Knows nothing of Transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from inference.engine.int8 import Int8Product, Int8Weights, multiplies_int8
from inference.engine.weights import TensorSource

# Up to here a product with weights in 4 bits is faster than with the same in bf16 or int8 (measured on two cores with
# AVX-512: 2.4 times bf16 for one row, 1.4 for four), and slower beyond.
INT4_ROWS, _INT4_GROUP = 4, 32
# Where int8 is multiplied in hardware: rounding the inputs of smaller matrices takes as long as their product saves.
_INT8_LEAST = 600_000
# oneDNN lays weights out for about this many rows; the layout serves one row and hundreds as well (within 10 %).
_PACKED_FOR = 16


class Linear(nn.Module):
    """y = x W^T + b with W [outputs, inputs].

    fp32 and bf16 on a CPU are laid out for oneDNN, once: measured on two cores against weights as they are, fp32 with
    AVX2 is 1.7 times as fast for one row, 3 times for four, 1.4 times for sixteen, bf16 with AVX-512 about twice up
    to sixteen. bf16 or int8 weights that came out of 4 bits, as those of a Q4 GGUF did, are kept as such too, for few
    rows: these wait for memory. int8 begins as bf16, until `quantise` is called; small matrices stay so. `trainable`:
    the weights stay as they are, since gradients go through no other layout.
    """

    int4_levels: torch.Tensor | None
    int4_scales: torch.Tensor | None

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, kind: str, *, trainable: bool = False
    ) -> None:
        super().__init__()
        self.outputs = weight.shape[0]
        self.packed = False
        self.register_buffer("int4_levels", None, persistent=False)
        self.register_buffer("int4_scales", None, persistent=False)
        self.int8: Int8Product | Int8Weights | None = None
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        if kind != "int8" and not trainable:
            self._lay_out()

    @staticmethod
    def activation_dtype(kind: str) -> torch.dtype:
        return torch.float32 if kind == "fp32" else torch.bfloat16

    @classmethod
    def load(
        cls,
        source: TensorSource,
        names: dict[str, int],
        inputs: int,
        *,
        bias: bool,
        kind: str,
        trainable: bool = False,
    ) -> Linear:
        """One product for several stored matrices (`names`: outputs of each), stacked in that order."""
        weights = [source.get(f"{name}.weight", (rows, inputs)) for name, rows in names.items()]
        biases = [source.get(f"{name}.bias", (rows,)) for name, rows in names.items()] if bias else []
        whole = torch.cat(weights) if len(weights) > 1 else weights[0]
        return cls.from_weight(whole, torch.cat(biases) if biases else None, kind, trainable=trainable)

    @classmethod
    def from_weight(
        cls, weight: torch.Tensor, bias: torch.Tensor | None, kind: str, *, trainable: bool = False
    ) -> Linear:
        dtype = cls.activation_dtype(kind)
        bias = None if bias is None else bias.to(dtype)
        return cls(weight.to(dtype).contiguous(), bias, kind, trainable=trainable)

    def quantise(self, largest: torch.Tensor) -> None:
        """Turns bf16 into int8, where that gains anything; `largest` [inputs]: how far each reaches, by example."""
        weight = self.weight.data
        in_hardware = not weight.is_cuda and multiplies_int8()
        if in_hardware and weight.numel() < _INT8_LEAST:
            self._lay_out()
            return
        if not weight.is_cuda:
            self._keep_int4(weight)
        self.int8 = (
            Int8Product(weight.float(), largest.float()) if in_hardware else Int8Weights(weight.float())
        )
        del self.weight

    def _keep_int4(self, weight: torch.Tensor) -> None:
        self.int4_levels, self.int4_scales = _as_int4(weight) or (None, None)

    def _lay_out(self) -> None:
        weight, mkldnn = self.weight.data, torch.ops.mkldnn
        if weight.is_cuda or not torch.backends.mkldnn.is_available():
            return
        if weight.dtype == torch.bfloat16:
            self._keep_int4(weight)
            if not mkldnn._is_mkldnn_bf16_supported():
                return
        self.packed = True
        self.weight = nn.Parameter(mkldnn._reorder_linear_weight(weight, _PACKED_FOR), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.int4_levels is not None and x.shape[0] <= INT4_ROWS:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.int4_levels, _INT4_GROUP, self.int4_scales)
        elif self.int8 is not None:
            y = self.int8(x)
        elif self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        else:
            return F.linear(x, self.weight, self.bias)
        return y if self.bias is None else y + self.bias


def _as_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Packed levels, and scale and zero of each group [groups, outputs, 2], if nearly nothing of the weights is lost.

    Q4_0, Q4_1 and Q4_K have 16 levels for every 32 weights of a row, evenly spaced from the lowest to the highest.
    """
    outputs, inputs = weight.shape
    if inputs % _INT4_GROUP or outputs % 64:
        return None
    groups = weight.float().view(outputs, -1, _INT4_GROUP)
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-12).to(torch.bfloat16).float()
    zero = (low + 8 * scale).to(torch.bfloat16).float()
    levels = ((groups - low) / scale).round_().clamp_(0, 15)
    lost = ((levels - 8) * scale + zero).sub_(groups).norm() / groups.norm().clamp_min(1e-12)
    # Rounding to bf16 costs 0.2 % itself; weights that never were in 4 bits would lose 8 %.
    if not lost < 0.01:
        return None
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
        levels.to(torch.int32).view(outputs, inputs), 1
    )
    scales = torch.cat([scale, zero], dim=-1).transpose(0, 1).contiguous().to(torch.bfloat16)
    return packed, scales
