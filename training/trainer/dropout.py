"""Dropout where all weights are learnt: of what each block adds to the stream, as GPT-2 has it. Knows no steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_ADDED = ("o_proj", "down_proj")


class ResidualDropout:
    """See inference.engine.model.Adapt; only while something is learnt."""

    def __init__(self, share: float) -> None:
        self._share = share

    def __call__(self, layer: int, product: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.dropout(y, self._share) if product in _ADDED else y
