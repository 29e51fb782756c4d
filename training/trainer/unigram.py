"""What a text costs whoever knows only how common each token is: below it a model has learnt something of language.

Knows nothing of models.
"""

from __future__ import annotations

import torch

from training.trainer.data import Span, TokenizedSplit, chunks

_AT_ONCE = 65_536  # tokens


def unigram_entropy(
    train: tuple[TokenizedSplit, list[Span]], judged: tuple[TokenizedSplit, list[Span]], vocabulary: int
) -> float:
    """Nats a token: the cross-entropy of `judged` under the tokens of `train`, each counted once more than it is there.

    As the loss, over tokens that are learnt.
    """
    known = _counts(*train, vocabulary) + 1
    seen = _counts(*judged, vocabulary)
    return float(-(seen * (known / known.sum()).log()).sum() / seen.sum())


def _counts(split: TokenizedSplit, spans: list[Span], vocabulary: int) -> torch.Tensor:
    """fp64 [vocabulary]"""
    counts = torch.zeros(vocabulary, dtype=torch.float64)
    for some in chunks(spans, _AT_ONCE):
        counts += torch.bincount(split.batch(some, torch.device("cpu")).targets, minlength=vocabulary)
    return counts
