"""Which adapters have a slot beside the weights, and who needs them there. Knows no tensors, only digests.

A slot is pinned by every sequence that has begun to use it. An adapter nobody uses keeps its slot until another wants
it, the longest unused going first, or until `IDLE_STEPS` steps have passed: those in use are the faster for it.
"""

from __future__ import annotations

from collections.abc import Iterable

# Making the slots anew takes a few steps' time at most, so that even an adapter that comes back at once costs little.
IDLE_STEPS = 128


class AdapterSlots:
    def __init__(self, max_slots: int) -> None:
        self.max_slots = max_slots
        self._pins: dict[str, int] = {}
        self._idle: dict[
            str, int
        ] = {}  # steps without use, of every adapter in a slot; the longest unused first

    @property
    def occupants(self) -> frozenset[str]:
        return frozenset(self._idle)

    @property
    def taken(self) -> int:
        return len(self._idle)

    def pin(self, digest: str) -> bool:
        """One holder more; takes a slot where it has none. False, and nothing done, where all others are pinned."""
        if digest not in self._idle and len(self._idle) == self.max_slots:
            unpinned = next((other for other in self._idle if other not in self._pins), None)
            if unpinned is None:
                return False
            del self._idle[unpinned]
        self._use(digest)
        self._pins[digest] = self._pins.get(digest, 0) + 1
        return True

    def unpin(self, digest: str) -> None:
        self._pins[digest] -= 1
        if not self._pins[digest]:
            del self._pins[digest]
            self._use(digest)

    def step(self) -> None:
        """A step has passed: whoever was unused for long leaves."""
        for digest in list(self._idle):
            if digest not in self._pins:
                self._idle[digest] += 1
                if self._idle[digest] > IDLE_STEPS:
                    del self._idle[digest]

    def clear(self) -> None:
        """All slots are free. Raises AssertionError where one is pinned."""
        assert not self._pins, self._pins
        self._idle.clear()

    def _use(self, digest: str) -> None:
        self._idle.pop(digest, None)
        self._idle[digest] = 0

    def check_integrity(self, holders: Iterable[str]) -> None:
        """Raises AssertionError unless every adapter has as many pins as holders, and a slot while it has any."""
        pins: dict[str, int] = {}
        for digest in holders:
            pins[digest] = pins.get(digest, 0) + 1
        if pins != self._pins or not self.occupants >= set(pins) or len(self._idle) > self.max_slots:
            raise AssertionError(f"{len(pins)} adapters in use, {len(self._pins)} pinned.")
