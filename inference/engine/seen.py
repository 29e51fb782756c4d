"""Which tokens a sequence has, and how often each was answered: what penalties go by. Knows no sampling.

Only these tokens' logits are touched: of a vocabulary of 150,000 a text has hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inference.engine.device import to_device

_MORE = 256  # places that are made at once


@dataclass
class SeenTokens:
    _places: dict[int, int]  # by token, where it stands in the others
    _ids: torch.Tensor  # int64
    _counts: torch.Tensor  # fp32: how often it was answered

    @classmethod
    def of(cls, prompt: list[int], device: torch.device) -> SeenTokens:
        places = {token: place for place, token in enumerate(dict.fromkeys(prompt))}
        counts = torch.zeros(len(places), device=device)
        return cls(places, to_device([*places], device, torch.long), counts)

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = torch.cat([self._ids, self._ids.new_zeros(_MORE)])
            self._counts = torch.cat([self._counts, self._counts.new_zeros(_MORE)])
        self._ids[place] = token
        self._counts[place] += 1

    def copy(self) -> SeenTokens:
        return SeenTokens(self._places.copy(), self._ids.clone(), self._counts.clone())

    def penalise(self, logits: torch.Tensor, repetition: float, frequency: float, presence: float) -> None:
        """fp32 logits [vocab_size], in place: as transformers punishes repetition, and OpenAI the others."""
        ids, counts = self._ids[: len(self._places)], self._counts[: len(self._places)]
        own = logits.index_select(0, ids)
        if repetition != 1.0:
            own = torch.where(own > 0, own / repetition, own * repetition)
        logits.index_copy_(0, ids, own - frequency * counts - presence * (counts > 0))
