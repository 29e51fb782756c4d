"""Decides which sequences compute how many tokens in a step. Knows nothing of models, text or sampling.

There is no prefill phase and no decode phase: each step lets every running sequence's computed tokens catch up with its
known ones, within a budget. A long prompt therefore goes in by chunks while others go on answering, and a
sequence that lost its memory to others, or comes from a crashed process, simply has more to catch up.
"""

from __future__ import annotations

from collections import deque

from inference.engine.interface import EngineBusy
from inference.engine.kv_cache import KVCache, OutOfBlocks, blocks_for
from inference.engine.sequence import Sequence

# Tokens of prompts in one step: with somebody waiting for their next word, and without.
_CHUNK_SHARED, _CHUNK_ALONE = 128, 512


class Scheduler:
    def __init__(self, cache: KVCache, *, max_running: int, max_waiting: int) -> None:
        self._cache = cache
        self._max_running, self._max_waiting = max_running, max_waiting
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def add(self, sequence: Sequence) -> None:
        """Raises EngineBusy where the waiting list is full."""
        if len(self.waiting) >= self._max_waiting:
            raise EngineBusy("The model has too many requests waiting; try again in a moment.")
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        """Takes a sequence out and its memory back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._cache.release(sequence.block_table, poisoned=poisoned)

    def schedule(self) -> list[tuple[Sequence, int]]:
        """Who computes how many tokens now; memory for them is reserved. Empty only when nothing is here."""
        answering = [s for s in self.running if s.missing == 1]
        plan: dict[Sequence, int] = {}
        for sequence in answering:
            # An earlier one may have taken this one's memory.
            if sequence in self.running:
                self._reserve(sequence, 1, plan)
        budget = _CHUNK_SHARED if plan else _CHUNK_ALONE
        for sequence in [s for s in self.running if s not in plan]:
            if budget and sequence in self.running:
                budget -= self._reserve(sequence, min(sequence.missing, budget), plan)
        while budget and self.waiting and len(self.running) < self._max_running:
            sequence = self.waiting[0]
            # Not before all it already knows fits, so that a newcomer pushes nobody out at once.
            if blocks_for(len(sequence.token_ids) + 1) > self._cache.free_blocks:
                break
            self.running.append(self.waiting.popleft())
            budget -= self._reserve(sequence, min(sequence.missing, budget), plan)
        return list(plan.items())

    def _reserve(self, sequence: Sequence, count: int, plan: dict[Sequence, int]) -> int:
        """Memory for `count` more tokens, if need be that of the youngest; 0 where it is itself the youngest."""
        while True:
            try:
                self._cache.grow(sequence.block_table, sequence.computed + count)
            except OutOfBlocks:
                youngest = self.running[-1]
                self._put_back(youngest)
                plan.pop(youngest, None)
                if youngest is sequence:
                    return 0
            else:
                plan[sequence] = count
                return count

    def _put_back(self, sequence: Sequence) -> None:
        """It waits again, first in line, and will compute its tokens anew."""
        self.running.remove(sequence)
        self._cache.release(sequence.block_table)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
