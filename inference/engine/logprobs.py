"""How likely tokens were, and which of several answers was likeliest. Knows nothing of sequences or sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from inference.engine.device import to_device
from inference.engine.interface import AlternativeToken, TokenLogprob


def token_logprobs(
    logits: torch.Tensor, token_ids: list[int], tops: list[int], token_bytes: Callable[[int], bytes]
) -> list[TokenLogprob]:
    """Of a token and so many of the likeliest for each row of logits, fp32 [rows, vocab_size]."""
    normalizers = logits.logsumexp(dim=-1, keepdim=True)
    chosen = (
        (logits.gather(1, to_device(token_ids, logits.device).unsqueeze(1)) - normalizers).squeeze(1).tolist()
    )
    likeliest = logits.topk(max(tops), dim=-1)
    values, ids = (likeliest.values - normalizers).tolist(), likeliest.indices.tolist()
    return [
        TokenLogprob(
            token,
            token_bytes(token),
            chosen[row],
            [
                AlternativeToken(id, token_bytes(id), value)
                for id, value in zip(ids[row][:top], values[row][:top], strict=True)
            ],
        )
        for row, (token, top) in enumerate(zip(token_ids, tops, strict=True))
    ]


def best_of(answers: Sequence[Sequence[TokenLogprob]], n: int) -> list[int]:
    """Which n of the answers have the highest mean logprob, the best first; an empty answer is worse than any other."""

    def mean(answer: Sequence[TokenLogprob]) -> float:
        return sum(token.logprob or 0.0 for token in answer) / len(answer) if answer else -math.inf

    return sorted(range(len(answers)), key=lambda at: -mean(answers[at]))[:n]
