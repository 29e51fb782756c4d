"""Rotary positions: how far each pair of a head's dimensions is turned. Knows nothing of attention or of files."""

from __future__ import annotations

import math

import torch
from torch import nn

from inference.engine.config import Rope


class RotaryEmbedding(nn.Module):
    """The turns of one `Rope` (arXiv:2104.09864)."""

    frequencies: torch.Tensor

    def __init__(self, rope: Rope, head_dim: int, factors: torch.Tensor | None = None) -> None:
        super().__init__()
        self.attention_factor = rope.attention_factor
        self.register_buffer("frequencies", rotary_frequencies(rope, head_dim, factors), persistent=False)

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """positions int64 [tokens] -> cosines and sines, fp32 [tokens, 1, head_dim / 2]."""
        angles = torch.outer(positions.float(), self.frequencies).unsqueeze(1)
        return angles.cos() * self.attention_factor, angles.sin() * self.attention_factor


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates x [tokens, heads, head_dim] by the angles of each token, [tokens, 1, head_dim / 2] in fp32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def rotary_frequencies(rope: Rope, head_dim: int, factors: torch.Tensor | None) -> torch.Tensor:
    """Radians a position turns each pair of dimensions by: fp32 [head_dim / 2]. Each is divided by its factor."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / rope.theta**exponent
    if factors is not None:
        frequencies = frequencies / factors.float()
    if rope.kind == "default":
        return frequencies
    if rope.kind == "linear":
        return frequencies / rope.factor
    kept = _llama3_kept(rope, frequencies) if rope.kind == "llama3" else _yarn_kept(rope, head_dim)
    return (1 - kept) * frequencies / rope.factor + kept * frequencies


def _llama3_kept(rope: Rope, frequencies: torch.Tensor) -> torch.Tensor:
    """Long wavelengths are stretched (0), short ones kept (1), those between blended, as Llama 3.1 was trained."""
    wavelength = 2 * math.pi / frequencies
    turns = rope.original_context / wavelength
    return ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)


def _yarn_kept(rope: Rope, head_dim: int) -> torch.Tensor:
    """As above, blended linearly by dimension (YaRN, arXiv:2309.00071)."""

    def dimension(turns: float) -> float:
        """The pair of dimensions that makes so many turns over the original context."""
        return head_dim * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    steps = torch.arange(head_dim // 2, dtype=torch.float32) - first
    return 1 - (steps / max(last - first, 0.001)).clamp(0, 1)
