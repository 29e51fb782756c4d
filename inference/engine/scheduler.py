"""Decides which sequences compute how many tokens in a step. Knows nothing of models, text or sampling.

There is no prefill phase and no decode phase: each step lets every running sequence's computed tokens catch up with its
known ones, within a budget. A long prompt therefore goes in by chunks while others go on answering, and a
sequence that lost its memory to others, or comes from a crashed process, simply has more to catch up; one that begins
as another did has less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from inference.engine.adapter_manager import AdapterManager
from inference.engine.blocks import BLOCK_SIZE, BlockManager, OutOfBlocks, blocks_for, chain_names
from inference.engine.fairness import FairQueue
from inference.engine.sequence import Sequence

# Tokens of prompts in one step: with somebody waiting for their next word, and without.
_CHUNK_SHARED, _CHUNK_ALONE = 128, 512
# Rows of a step are a multiple of this where prompts can fill it up: each number that never was costs oneDNN 3 MB and
# some 5 ms, to make code for it.
_ROUND = 32
# What a token of the answer weighs against one that was known before, when workspaces take turns: as in the VTC paper.
_ANSWERED_WEIGHT = 2


class PrefixUse(NamedTuple):
    """Tokens known when sequences were admitted, and how many of these need not be computed again."""

    asked: int
    reused: int


class Scheduler:
    def __init__(
        self,
        blocks: BlockManager,
        adapters: AdapterManager,
        clear: Callable[[list[int]], None],
        *,
        max_running: int,
        max_waiting: int,
    ) -> None:
        """`clear` empties blocks that may hold NaN, which would reach whoever has them next."""
        self._blocks, self._adapters, self._clear = blocks, adapters, clear
        self._max_running = max_running
        self.waiting: FairQueue[Sequence] = FairQueue(max_waiting)
        self.running: list[Sequence] = []  # oldest first
        self.prefix_use = PrefixUse(0, 0)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def add(self, sequence: Sequence) -> None:
        """Raises EngineBusy where the waiting list is full, and its workspace has its share of it."""
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        """Takes a sequence out and its memory back. What is `poisoned` is not found by others, either."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        if sequence.adapter is not None and sequence.pinned:
            self._adapters.unpin(sequence.adapter)
            sequence.pinned = False
        self._release(sequence, poisoned=poisoned)

    def _release(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        first = 0 if poisoned else sequence.published if sequence.sound < sequence.computed else None
        suspected = set() if first is None else {*sequence.block_table[first:]}
        freed = self._blocks.release(sequence.block_table, poisoned=poisoned)
        if suspected:
            self._clear([block for block in freed if block in suspected])

    def computed(self, sequence: Sequence) -> None:
        """Its computed tokens gave sound numbers: whoever begins with the same ones need not compute them."""
        self.waiting.charge(
            sequence.salt, _ANSWERED_WEIGHT * (len(sequence.token_ids) - sequence.charged_tokens)
        )
        sequence.charged_tokens = len(sequence.token_ids)
        sequence.sound = sequence.computed
        full = sequence.computed // BLOCK_SIZE
        if full > sequence.published:
            chain_names(sequence.chain_root, sequence.block_names, sequence.token_ids, full)
            for block, name in zip(
                sequence.block_table[sequence.published : full],
                sequence.block_names[sequence.published : full],
                strict=True,
            ):
                self._blocks.publish(block, name)
            sequence.published = full

    def schedule(self) -> list[tuple[Sequence, int]]:
        """Who computes how many tokens now; memory for them is reserved. Empty only when nothing is here."""
        answering = [s for s in self.running if s.missing == 1]
        plan: dict[Sequence, int] = {}
        for sequence in answering:
            # An earlier one may have taken this one's memory.
            if sequence in self.running:
                self._reserve(sequence, 1, plan)
        if len(plan) == len(self.running) == 1:
            self._speculate(self.running[0], plan)
        budget = _CHUNK_SHARED - sum(plan.values()) % _ROUND if plan else _CHUNK_ALONE
        for sequence in [s for s in self.running if s not in plan]:
            if budget and sequence in self.running:
                budget -= self._reserve(sequence, min(sequence.missing, budget), plan)
        self._let_in(budget, plan)
        return list(plan.items())

    def _speculate(self, sequence: Sequence, plan: dict[Sequence, int]) -> None:
        """The only one that runs computes guessed tokens too: guesses would make the steps of others longer.

        Measured as in lookup.py: with three guesses each, a step of two takes 2.1 times as long and one of four 2.6
        times, where alone it is 1.3 times.
        """
        if sequence.lookup is None or sequence.reader is not None:
            return
        # The last token of an answer is never computed. Up to there, one alone always has the memory.
        left = sequence.max_tokens - sequence.answered - 1
        sequence.draft = sequence.lookup.draft(sequence.token_ids, left)
        self._reserve(sequence, 1 + len(sequence.draft), plan)

    def _let_in(self, budget: int, plan: dict[Sequence, int]) -> None:
        """Those who wait, in turn. One that lacks memory keeps those behind it out as well, or it would never have it;
        one that waits for something else is passed. One that waits for its adapter's slot is not passed by any that
        would pin one: so those in use come free, and it does not wait for ever."""
        turns = self.waiting.in_turn()
        slot_wanted = False
        while budget and len(self.running) < self._max_running and (sequence := next(turns, None)):
            if sequence.adapter is not None:
                if not sequence.pinned and not slot_wanted:
                    sequence.pinned = self._adapters.pin(sequence.adapter)
                    slot_wanted = not sequence.pinned
                if not sequence.pinned or not self._adapters.ready(sequence.adapter):
                    continue
            found = self._known_beginning(sequence)
            if found is None:
                continue
            if not self._admit(sequence, found):
                return
            self.waiting.remove(sequence)
            self.running.append(sequence)
            if not sequence.charged_tokens:
                self.waiting.charge(sequence.salt, sequence.missing)
                sequence.charged_tokens = len(sequence.token_ids)
                sequence.cached_tokens = min(sequence.computed, sequence.prompt_tokens)
            budget -= self._reserve(sequence, min(sequence.missing, budget), plan)

    def _known_beginning(self, sequence: Sequence) -> list[int] | None:
        """The blocks of its beginning that are there; None while another computes what comes next in it."""
        chain_names(
            sequence.chain_root,
            sequence.block_names,
            sequence.token_ids,
            (len(sequence.token_ids) - 1) // BLOCK_SIZE,
        )
        most = sequence.skippable // BLOCK_SIZE
        found = self._blocks.find(sequence.block_names[:most])
        if len(found) < most and self._is_coming(sequence.block_names, len(found)):
            return None
        return found

    def _admit(self, sequence: Sequence, found: list[int]) -> bool:
        """Not before all it knows fits, so that a newcomer pushes nobody out at once."""
        self._blocks.hold(found)
        if blocks_for(len(sequence.token_ids) + 1) - len(found) > self._blocks.free:
            self._blocks.release(found)
            return False
        sequence.block_table = found
        sequence.published = len(found)
        sequence.computed = sequence.sound = len(found) * BLOCK_SIZE
        use = self.prefix_use
        self.prefix_use = PrefixUse(use.asked + len(sequence.token_ids), use.reused + sequence.computed)
        return True

    def _is_coming(self, names: list[bytes], at: int) -> bool:
        """Whether one that runs is to publish the block of that name: it will, or leave, so nobody waits for ever."""
        return any(
            s.published <= at < len(s.block_names) and s.block_names[at] == names[at] for s in self.running
        )

    def _reserve(self, sequence: Sequence, count: int, plan: dict[Sequence, int]) -> int:
        """Memory for `count` more tokens, if need be that of the youngest; 0 where it is itself the youngest."""
        while True:
            try:
                missing = blocks_for(sequence.computed + count) - len(sequence.block_table)
                sequence.block_table += self._blocks.take(missing)
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
        self._release(sequence)
        sequence.computed = sequence.sound = 0
        sequence.draft = []
        self.waiting.put_back(sequence)
