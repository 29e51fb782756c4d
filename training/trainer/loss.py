"""Cross-entropy over the vocabulary, only where something is learnt and a chunk at a time. Knows nothing of batches.

The logits of a whole pass would be its largest tensor by far; here those of a few tokens exist at once, and their
gradient is taken while they do.
"""

from __future__ import annotations

from typing import Any

import torch

# Tokens whose logits exist at once.
_CHUNK = 128


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float
    ) -> torch.Tensor:
        dtype = hidden.dtype
        cast = weight.to(dtype)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        weight_gradient = torch.zeros_like(weight) if needs_weight else None
        for start in range(0, len(targets), _CHUNK):
            chunk, rows = slice(start, start + _CHUNK), targets[start : start + _CHUNK].unsqueeze(1)
            logits = (hidden[chunk] @ cast.t()).float()
            peak = logits.logsumexp(dim=-1, keepdim=True)
            losses = peak - (1 - smoothing) * logits.gather(1, rows)
            if smoothing:
                losses -= smoothing * logits.mean(dim=-1, keepdim=True)
            total += losses.double().sum()
            if not (needs_hidden or needs_weight):
                continue
            gradient = logits.sub_(peak).exp_()
            if smoothing:
                gradient -= smoothing / gradient.shape[1]
            gradient.scatter_add_(1, rows, gradient.new_full(rows.shape, smoothing - 1))
            lower = gradient.to(dtype)
            if hidden_gradient is not None:
                torch.mm(lower, cast, out=hidden_gradient[chunk])
            if weight_gradient is not None:
                weight_gradient += lower.t() @ hidden[chunk]
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        scale = gradients[0]
        return (
            None if hidden is None else hidden * scale.to(hidden.dtype),
            None if weight is None else weight * scale.to(weight.dtype),
            None,
            None,
        )


def summed_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """hidden [tokens, size], weight [vocabulary, size], targets int64 [tokens] -> fp64, the sum over all tokens."""
    result: torch.Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, smoothing)
    return result
