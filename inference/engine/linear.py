"""Matrix products with weights in fp32, bf16 or int8, chosen by what is fast. Knows nothing of Transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from inference.engine.weights import TensorSource

# Measured on two cores with AVX-512 and AMX: beyond these rows unpacking int8 once and multiplying in bf16 is faster.
_INT8_ROWS = 16
# oneDNN lays weights out for about this many rows; the layout serves one row and hundreds as well (within 10 %).
_PACKED_FOR = 16


class Linear(nn.Module):
    """y = x W^T + b with W [outputs, inputs].

    int8 is weight-only, with one scale for each output: no activation is quantised, so that no request's numbers
    depend on the others in its batch. fp32 on a CPU is laid out for oneDNN, once: against the product with weights as
    they are, measured on two cores with AVX2, 1.7 times as fast for one row, 3 times for four, 1.4 times for sixteen.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.packed = scale is None and not weight.is_cuda and torch.backends.mkldnn.is_available()
        if self.packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = None if scale is None else nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @staticmethod
    def activation_dtype(kind: str) -> torch.dtype:
        return torch.float32 if kind == "fp32" else torch.bfloat16

    @classmethod
    def load(
        cls, source: TensorSource, names: dict[str, int], inputs: int, *, bias: bool, kind: str
    ) -> Linear:
        """One product for several stored matrices (`names`: outputs of each), stacked in that order."""
        weights = [source.get(f"{name}.weight", (rows, inputs)) for name, rows in names.items()]
        biases = [source.get(f"{name}.bias", (rows,)) for name, rows in names.items()] if bias else []
        whole = torch.cat(weights) if len(weights) > 1 else weights[0]
        return cls.from_weight(whole, torch.cat(biases) if biases else None, kind)

    @classmethod
    def from_weight(cls, weight: torch.Tensor, bias: torch.Tensor | None, kind: str) -> Linear:
        dtype = cls.activation_dtype(kind)
        bias = None if bias is None else bias.to(dtype)
        if kind != "int8":
            return cls(weight.to(dtype).contiguous(), None, bias)
        weight = weight.float()
        # The scale is rounded to bf16 before it is used, so that quantising and multiplying agree on it.
        scale = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12).to(torch.bfloat16)
        packed = (weight / scale.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
        return cls(packed.contiguous(), scale, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        if x.shape[0] <= _INT8_ROWS:
            y = torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scale)
        else:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias
