"""The engines of one worker: the default model's, which stays, and those of other models, which come and go.

Their number is bounded; the longest unused that nobody holds makes room. One thread steps them all, and they take turns
by the time they compute. Knows nothing of what they are asked, nor of how models are loaded.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from inference.adapters import Adapters
from inference.engine import allocator
from inference.engine.interface import Engine, EngineFigures
from inference.models import ServedModel
from webapp.core.content_cache import Held

logger = logging.getLogger(__name__)

# A row that was brought up to date is another model.
Key = tuple[int, str]


def key_of(model: ServedModel) -> Key:
    return model.pk, model.digest


@dataclass(eq=False)
class Resident:
    """An engine that is there, and who needs it to stay."""

    model: ServedModel
    engine: Engine
    files: Held  # stay on this host as long as it is there
    adapters: Adapters = field(init=False)
    holders: int = 0  # generations that are prepared for it or run in it
    is_leaving: bool = False  # takes nobody more, so that others come to have their turn
    is_broken: bool = False
    used_at: float = field(init=False)  # last, on time.monotonic()'s clock
    computed: float = 0.0  # seconds of its steps, as far as turns go by them

    def __post_init__(self) -> None:
        self.adapters = Adapters(self.engine)
        self.used_at = time.monotonic()


class Engines:
    """Thread-safe, but for `turn`, which is the engine thread's."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.default: Resident | None = None
        self.changed = threading.Condition()  # also of what waits for an engine: see `model_finder`
        self._residents: dict[Key, Resident] = {}  # in the order they came
        self._working: list[Resident] = []  # when a turn was last asked for
        self._prefix_of_gone = (0, 0)  # what engines that have left had counted of it

    def add(self, resident: Resident, *, default: bool = False) -> None:
        with self.changed:
            self._residents[key_of(resident.model)] = resident
            if default:
                self.default = resident
            self.changed.notify_all()

    def has(self, model: ServedModel) -> bool:
        with self.changed:
            return key_of(model) in self._residents

    def hold(self, model: ServedModel) -> Resident | None:
        """Its engine, with one holder more; None where it is not there, or takes nobody more."""
        with self.changed:
            resident = self._residents.get(key_of(model))
            if resident is None or resident.is_leaving:
                return None
            resident.holders += 1
            resident.used_at = time.monotonic()
            return resident

    def release(self, resident: Resident) -> None:
        with self.changed:
            resident.holders -= 1
            resident.used_at = time.monotonic()
            if not resident.holders:
                self.changed.notify_all()

    def is_answering(self) -> bool:
        """Whether anybody waits for the next word."""
        with self.changed:
            return any(resident.engine.has_work for resident in self._residents.values())

    def takers(self) -> list[int]:
        """The models whose engines take generations now."""
        with self.changed:
            return [r.model.pk for r in self._residents.values() if not r.is_leaving]

    def figures(self) -> tuple[EngineFigures, dict[str, int]]:
        """Of all engines together, and by model how many generations hold its engine."""
        with self.changed:
            each = [resident.engine.figures() for resident in self._residents.values()]
            held: dict[str, int] = {}
            for resident in self._residents.values():
                held[resident.model.name] = held.get(resident.model.name, 0) + resident.holders
            known, reused = self._prefix_of_gone
        together = EngineFigures(
            kv_blocks=sum(one.kv_blocks for one in each),
            kv_blocks_used=sum(one.kv_blocks_used for one in each),
            kv_blocks_kept=sum(one.kv_blocks_kept for one in each),
            prefix_tokens=known + sum(one.prefix_tokens for one in each),
            prefix_tokens_reused=reused + sum(one.prefix_tokens_reused for one in each),
            adapters=sum(one.adapters for one in each),
        )
        return together, held

    # --- room -----------------------------------------------------------------------------------------------
    def make_room(self, is_wanted: Callable[[], bool]) -> bool:
        """Waits until there may be one more. False once it `is_wanted` no more, which is asked under `changed`.

        Where all others are in use, the one that has been here longest takes nobody more, and goes when it has ended
        what it has.
        """
        asked: Resident | None = None
        try:
            while True:
                with self.changed:
                    if not is_wanted():
                        return False
                    if len(self._residents) < self.most:
                        return True
                    idle = self._pop_idle()
                    if idle is None:
                        asked = asked or self._ask_to_leave()
                        self.changed.wait()
                if idle is not None:
                    self._close(idle)
        finally:
            if asked is not None:
                asked.is_leaving = False

    def drop_idle(self, *, unused_for: float = 0.0) -> bool:
        """Drops the longest unused that nobody holds, if it is that for so many seconds. False where there is none."""
        with self.changed:
            idle = self._pop_idle(time.monotonic() - unused_for)
        if idle is not None:
            self._close(idle)
        return idle is not None

    def discard(self, resident: Resident) -> None:
        """One that is beyond repair: nobody finds it any more, and its memory goes with those that hold it."""
        with self.changed:
            resident.is_broken = True
            if self._residents.pop(key_of(resident.model), None) is not None:
                self._remember(resident)
            self.changed.notify_all()
        _end(resident)

    def _pop_idle(self, used_before: float = math.inf) -> Resident | None:
        idle = [r for r in self._others() if not r.holders and r.used_at <= used_before]
        if not idle:
            return None
        longest = min(idle, key=lambda resident: resident.used_at)
        self._remember(longest)
        return self._residents.pop(key_of(longest.model))

    def _remember(self, leaving: Resident) -> None:
        """Under `changed`, with its leaving: what is counted for good must not become less."""
        figures = leaving.engine.figures()
        known, reused = self._prefix_of_gone
        self._prefix_of_gone = (known + figures.prefix_tokens, reused + figures.prefix_tokens_reused)

    def _ask_to_leave(self) -> Resident | None:
        first = next(iter(self._others()), None)
        if first is not None:
            first.is_leaving = True
        return first

    def _others(self) -> list[Resident]:
        return [r for r in self._residents.values() if r is not self.default]

    def _close(self, idle: Resident) -> None:
        _end(idle)
        # Our callers still have the name of it.
        del idle.engine, idle.adapters
        allocator.give_back_all()
        logger.info("model %s has made room", idle.model.name)

    # --- turns ----------------------------------------------------------------------------------------------
    def turn(self) -> Resident | None:
        """Whose step is next: of those with work the one that has computed the least; None where nobody has any.

        Whoever comes from having nothing to do begins where the others are, so that nobody saves up turns.
        """
        with self.changed:
            working = [r for r in self._residents.values() if r.engine.has_work]
        if len(working) > 1:
            before = [r for r in working if r in self._working]
            least = min((r.computed for r in before), default=0.0)
            for resident in working:
                if resident not in before:
                    resident.computed = max(resident.computed, least)
        self._working = working
        return min(working, key=lambda resident: resident.computed, default=None)


def _end(resident: Resident) -> None:
    try:
        resident.engine.close()
    except Exception:
        logger.exception("the engine of %s did not end as it should", resident.model.name)
    resident.files.release()
