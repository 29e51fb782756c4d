"""Blocks of the cache under every order of events: none lost, none given out twice, none found with other content."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from inference.engine.blocks import (
    BLOCK_SIZE,
    BlockManager,
    OutOfBlocks,
    chain_names,
    chain_root,
)

# Few, so that beginnings are shared often.
_PARTS = st.lists(st.integers(0, 1), max_size=6)


@dataclass(eq=False)
class _Holder:
    """A sequence that has computed whole blocks of tokens."""

    root: bytes
    tokens: list[int]
    table: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)


class Blocks(RuleBasedStateMachine):
    """Beside the manager stands what is really in each block: all tokens up to its end, under their salt."""

    holders = Bundle("holders")

    @initialize(count=st.integers(2, 12))
    def begin(self, count: int) -> None:
        self.manager = BlockManager(count)
        self.content: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        self.held: list[_Holder] = []

    @rule(target=holders, salt=st.sampled_from(["a", "b"]), parts=_PARTS)
    def arrive(self, salt: str, parts: list[int]) -> _Holder:
        holder = _Holder(chain_root("model", salt), [part for part in parts for _ in range(BLOCK_SIZE)])
        chain_names(holder.root, holder.names, holder.tokens, len(parts))
        found = self.manager.find(holder.names)
        self.manager.hold(found)
        holder.table = found
        for n, block in enumerate(found, 1):
            assert self.content[block] == (holder.root, tuple(holder.tokens[: n * BLOCK_SIZE]))
        self.held.append(holder)
        return holder

    @rule(holder=holders, count=st.integers(0, 3))
    def compute(self, holder: _Holder, count: int) -> None:
        if holder not in self.held:
            return
        count = min(count, len(holder.names) - len(holder.table))
        free = self.manager.free
        try:
            taken = self.manager.take(count)
        except OutOfBlocks:
            assert count > free == self.manager.free
            return
        others = {block for other in self.held for block in other.table}
        assert len(set(taken) - others) == count
        for block in taken:
            holder.table.append(block)
            self.content[block] = holder.root, tuple(holder.tokens[: len(holder.table) * BLOCK_SIZE])

    @rule(holder=holders)
    def publish(self, holder: _Holder) -> None:
        if holder in self.held:
            for block, name in zip(holder.table, holder.names, strict=False):
                self.manager.publish(block, name)

    @rule(holder=consumes(holders), poisoned=st.booleans())
    def leave(self, holder: _Holder, poisoned: bool) -> None:
        if holder not in self.held:
            return
        self.held.remove(holder)
        table = set(holder.table)
        still = {block for other in self.held for block in other.table}
        assert set(self.manager.release(holder.table, poisoned=poisoned)) == table - still
        if poisoned:
            assert not table & set(self.manager.find(holder.names))

    @invariant()
    def intact(self) -> None:
        if hasattr(self, "manager"):
            self.manager.check_integrity([holder.table for holder in self.held])

    def teardown(self) -> None:
        for holder in getattr(self, "held", ()):
            self.manager.release(holder.table)
        if hasattr(self, "manager"):
            assert self.manager.free == self.manager.num_blocks - 1


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def _published(manager: BlockManager, root: bytes, tokens: list[int]) -> list[bytes]:
    names: list[bytes] = []
    chain_names(root, names, tokens, len(tokens) // BLOCK_SIZE)
    table = manager.take(len(names))
    for block, name in zip(table, names, strict=True):
        manager.publish(block, name)
    manager.release(table)
    return names


def test_the_longest_unused_gives_way_first_and_a_chains_end_before_its_beginning() -> None:
    manager = BlockManager(5)
    old = _published(manager, chain_root("m"), [1] * 2 * BLOCK_SIZE)
    new = _published(manager, chain_root("m"), [2] * 2 * BLOCK_SIZE)
    manager.release(manager.take(1))  # is taken from the old one's end
    assert (len(manager.find(old)), len(manager.find(new))) == (1, 2)
    manager.take(3)
    assert (len(manager.find(old)), len(manager.find(new))) == (0, 1)


def test_what_is_found_again_counts_as_used() -> None:
    manager = BlockManager(3)
    first = _published(manager, chain_root("m"), [1] * BLOCK_SIZE)
    second = _published(manager, chain_root("m"), [2] * BLOCK_SIZE)
    found = manager.find(first)
    manager.hold(found)
    manager.release(found)
    manager.take(1)
    assert (len(manager.find(first)), len(manager.find(second))) == (1, 0)


@pytest.mark.parametrize(
    "other", [("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ("a", "b", "c", "d")]
)
def test_different_salts_are_different_chains_however_they_are_cut(other: tuple[str, ...]) -> None:
    assert chain_root(*other) != chain_root("a", "b", "c")


def test_a_name_stands_for_everything_before_it() -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    chain_names(chain_root("m"), first, [1] * BLOCK_SIZE + [3] * BLOCK_SIZE, 2)
    chain_names(chain_root("m"), second, [2] * BLOCK_SIZE + [3] * BLOCK_SIZE, 2)
    assert first[1] != second[1]
