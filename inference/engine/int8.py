"""Matrix products in int8: a scale for each output's weights, another for each row of activations. Knows no models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# Measured on two cores with AVX-512: beyond these rows unpacking the weights once and multiplying in bf16 is faster.
_UNPACKED_ROWS = 16
# 1.5 * 2**23 + 128: added to an fp32 number of at most 127, the low byte of the sum is the number, rounded, plus 128.
_ROUND_TO_BYTE = 12583040.0
# oneDNN lays weights out for about this many rows.
_PACKED_FOR = 16


def multiplies_int8() -> bool:
    """Whether this processor does so in hardware, in sums of 32 bits; where they are of 16 bits they overflow."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


class Int8Product(nn.Module):
    """x W^T, x bf16 [rows, inputs] rounded to int8 for the product, each row by its own largest value.

    Before rounding, inputs that reach far are divided by what their weights are multiplied by, so that both are
    rounded well (SmoothQuant, arXiv:2211.10438). That is done here, and not in the norm before, since
    adapters read the same x. Rows are independent of each other: no request's numbers depend on its batch's content.
    """

    smoothing: torch.Tensor
    levels: torch.Tensor
    scale: torch.Tensor
    zero_points: torch.Tensor

    def __init__(self, weight: torch.Tensor, largest: torch.Tensor) -> None:
        """weight fp32 [outputs, inputs]; largest fp32 [inputs]: how far each input reaches, by example."""
        super().__init__()
        # An input that was next to nothing in the example may not be so in another text.
        largest = largest.clamp_min(float(largest.mean()) / 10).clamp_min(1e-5)
        smoothing = (largest / weight.abs().amax(dim=0).clamp_min(1e-5)).sqrt()
        levels, scale = _quantised(weight * smoothing)
        self.register_buffer("smoothing", 1 / smoothing)
        self.register_buffer("levels", torch.ops.onednn.qlinear_prepack(levels, [_PACKED_FOR, len(largest)]))
        self.register_buffer("scale", scale)
        self.register_buffer("zero_points", torch.zeros(len(levels), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        smooth = x * self.smoothing
        scale = smooth.abs().amax(dim=-1, keepdim=True).mul_(1 / 127)
        # Three operations where rounding, shifting and converting to bytes would be four, of which the last is slow.
        rounded = smooth.div_(scale).add_(_ROUND_TO_BYTE).view(torch.int32).to(torch.uint8)
        y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, 128, self.levels, self.scale, self.zero_points,
            None, 1.0, 0, torch.bfloat16, "none", [], "",
        )  # fmt: skip
        return y.mul_(scale)


class Int8Weights(nn.Module):
    """x W^T with x bf16 [rows, inputs] as it is, where int8 is not multiplied in hardware."""

    levels: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        """weight fp32 [outputs, inputs]."""
        super().__init__()
        # The scale is rounded to bf16 before it is used, so that quantising and multiplying agree on it.
        levels, scale = _quantised(weight, torch.bfloat16)
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] <= _UNPACKED_ROWS and not x.is_cuda:
            y: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, self.levels, self.scale)
            return y
        return F.linear(x, self.levels.to(x.dtype)) * self.scale


def _quantised(
    weight: torch.Tensor, scale_dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [outputs, inputs] and what each row of it is to be multiplied by."""
    scale = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12).to(scale_dtype)
    levels = (weight / scale.float().unsqueeze(1)).round_().clamp_(-127, 127)
    return levels.to(torch.int8), scale
