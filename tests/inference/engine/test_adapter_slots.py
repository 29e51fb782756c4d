"""Slots of adapters under every order of events: none taken from who needs it, none kept for nobody."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inference.engine.adapter_slots import IDLE_STEPS, AdapterSlots

_DIGESTS = st.sampled_from("abcde")


class Slots(RuleBasedStateMachine):
    """Beside the slots stands who holds what, and in which order everything was last used."""

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        self.slots = AdapterSlots(count)
        self.holders: list[str] = []
        self.last_used: list[str] = []

    @rule(digest=_DIGESTS)
    def pin(self, digest: str) -> None:
        before = self.slots.occupants
        idle = [d for d in self.last_used if d in before and d not in self.holders]
        full = digest not in before and len(before) == self.slots.max_slots
        pinned = self.slots.pin(digest)
        assert pinned == (not full or bool(idle))
        if pinned:
            self.holders.append(digest)
            self._used(digest)
            gone = {idle[0]} if full else set()
            assert self.slots.occupants == (before - gone) | {digest}
        else:
            assert self.slots.occupants == before

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(self.holders))
        self.holders.remove(digest)
        self.slots.unpin(digest)
        if digest not in self.holders:
            self._used(digest)

    @rule(count=st.sampled_from([1, IDLE_STEPS, IDLE_STEPS + 1]))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.slots.step()
        if count > IDLE_STEPS:
            assert self.slots.occupants == set(self.holders)

    @invariant()
    def intact(self) -> None:
        if hasattr(self, "slots"):
            self.slots.check_integrity(self.holders)

    def _used(self, digest: str) -> None:
        self.last_used = [d for d in self.last_used if d != digest] + [digest]


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_the_longest_unused_leaves_first() -> None:
    slots = AdapterSlots(2)
    for digest in ("old", "new", "old"):
        assert slots.pin(digest)
        slots.unpin(digest)
    assert slots.pin("third")
    assert slots.occupants == {"old", "third"}


def test_what_is_in_use_is_never_idle() -> None:
    slots = AdapterSlots(2)
    slots.pin("used")
    slots.pin("left")
    slots.unpin("left")
    for _ in range(IDLE_STEPS):
        slots.step()
    assert slots.occupants == {"used", "left"}
    slots.step()
    assert slots.occupants == {"used"}


@pytest.mark.parametrize("holders", [[], ["a", "a"], ["a", "b"]])
def test_a_pin_without_a_holder_is_found_and_a_holder_without_a_pin(holders: list[str]) -> None:
    slots = AdapterSlots(2)
    slots.pin("a")
    slots.check_integrity(["a"])
    with pytest.raises(AssertionError):
        slots.check_integrity(holders)
