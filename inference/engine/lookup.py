"""Guesses what comes next from what the sequence itself said before: prompt-lookup speculation. Knows only token ids.

An answer that rewrites, summarises or extracts repeats its prompt. Where its last two tokens stood before, those that
came after them then are drafted now (https://github.com/apoorvumang/prompt-lookup-decoding); a step computes them all
and keeps those that would have been chosen anyway (arXiv:2211.17192 with a draft that is certain of itself).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

# What a step costs with so many drafted tokens, in steps without: measured, SmolLM2-135M out of 4 bits on two cores
# with AVX-512, compiled; as it is, 1.3 and 2.6. Seven would be best for hardly any estimate.
_COSTS = {0: 1.0, 3: 1.6, 15: 3.9}
MOST_DRAFTED = max(_COSTS)
# How much of the estimate the last guess makes. From 0.1 to 0.3 it makes no difference beyond 4 %.
_RATE = 0.2


class LookupUse(NamedTuple):
    """Tokens that were drafted, and how many of these were right."""

    drafted: int
    accepted: int


class PromptLookup:
    """One sequence's. Reads its known tokens as they come, a dictionary's entry for each.

    A guess is made at every token and costs nothing to judge, whether it was computed or not: so it is known what
    drafting would bring while none is done, and it begins and ends with the text that repeats.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, int], int] = {}  # where the token after a pair stood last
        self._read = 0
        self._guess: int | None = None  # where the token stands that is thought to come next
        self._right = 0.4  # the estimated share of right guesses

    def draft(self, token_ids: Sequence[int], limit: int) -> list[int]:
        """At most `limit` tokens that may follow the known ones; none where computing them would not pay."""
        self._read_on(token_ids)
        drafted: list[int] = []
        if self._guess is None:
            return drafted
        for at in range(self._guess, self._guess + min(_worth_drafting(round(self._right, 2)), limit)):
            drafted.append(token_ids[at] if at < len(token_ids) else drafted[at - len(token_ids)])
        return drafted

    def _read_on(self, token_ids: Sequence[int]) -> None:
        answering = self._read > 0
        for at in range(max(self._read, 1), len(token_ids)):
            if self._guess is not None:
                right = token_ids[self._guess] == token_ids[at]
                self._right += (right - self._right) * _RATE
                self._guess = self._guess + 1 if right else None
            pair = (token_ids[at - 1], token_ids[at])
            if self._guess is None and (answering or at == len(token_ids) - 1):
                self._guess = self._after.get(pair)
            self._after[pair] = at + 1
        self._read = len(token_ids)


@cache
def _worth_drafting(right: float) -> int:
    """How many tokens give the most for their cost, if each guess is right with this probability."""

    def gain(length: int) -> float:
        return sum(right**n for n in range(length + 1)) / _COSTS[length]

    return max(_COSTS, key=gain)
