"""A worker's engines take turns by the time they compute, and stay within their number."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

from inference.engine.interface import Adapter, Admission, EngineFigures, InvalidAdapter, Request, StepOutput
from inference.engines import Engines, Resident
from inference.models import ServedModel
from tests.services import wait_until
from webapp.core.content_cache import Held


class BusyEngine:
    """Has work for as long as it is told so."""

    def __init__(self, name: str, *, has_work: bool = True) -> None:
        self.model_digest, self.has_work = name, has_work
        self.is_closed = False
        self.counted = EngineFigures()

    def prepare(self, request: Request) -> None: ...

    def read_adapter(self, folder: Path) -> Adapter:
        raise InvalidAdapter("It has none.")

    def add_adapter(self, name: str, adapter: Any) -> None: ...

    def submit(self, request: Request, prepared: Any = None) -> Admission:
        raise NotImplementedError

    def cancel(self, request_id: str) -> None: ...

    def step(self) -> list[StepOutput]:
        return []

    def figures(self) -> EngineFigures:
        return self.counted

    def close(self) -> None:
        self.is_closed = True


def resident(number: int, *, has_work: bool = True) -> Resident:
    name = f"model-{number}"
    model, engine = ServedModel(pk=number, name=name, digest=name), BusyEngine(name, has_work=has_work)
    return Resident(model, engine, Held(Path()))


def engines(*residents: Resident, most: int = 3) -> Engines:
    made = Engines(most)
    for number, one in enumerate(residents):
        made.add(one, default=number == 0)
    return made


def turns(held: Engines, rounds: int, seconds: dict[Resident, float]) -> Counter[Resident]:
    """Whose turns they were, where each engine's step takes so long."""
    taken: Counter[Resident] = Counter()
    for _ in range(rounds):
        turn = held.turn()
        assert turn is not None
        turn.computed += seconds[turn]
        taken[turn] += 1
    return taken


def test_engines_share_the_time_and_not_the_steps() -> None:
    small, large = resident(1), resident(2)
    taken = turns(engines(small, large), 220, {small: 0.01, large: 0.1})
    assert taken[small] == 200
    assert taken[large] == 20


def test_none_that_has_work_is_passed_over_for_long() -> None:
    several = [resident(n) for n in (1, 2, 3)]
    held, seconds = engines(*several), dict.fromkeys(several, 0.01)
    for _ in range(10):
        assert set(turns(held, 3, seconds)) == set(several)


def test_an_engine_that_had_nothing_to_do_has_saved_up_no_turns() -> None:
    busy, idle = resident(1), resident(2, has_work=False)
    held, seconds = engines(busy, idle), {busy: 0.01, idle: 0.01}
    turns(held, 1000, seconds)
    idle.engine.has_work = True  # type: ignore[misc]
    taken = turns(held, 100, seconds)
    assert abs(taken[busy] - taken[idle]) <= 1


def test_where_nobody_has_work_it_is_nobodys_turn() -> None:
    assert engines(resident(1, has_work=False)).turn() is None


def test_the_default_stays_and_of_the_others_the_longest_unused_goes() -> None:
    default, older, newer = (resident(n) for n in (1, 2, 3))
    held = engines(default, older, newer)
    for one in (newer, older, newer):
        assert held.hold(one.model) is one
        held.release(one)
    closed = older.engine
    assert held.make_room(lambda: True)
    assert not held.has(older.model)
    assert held.has(default.model) and held.has(newer.model)  # noqa: PT018
    assert closed.is_closed  # type: ignore[attr-defined]


def test_what_engines_that_left_have_counted_stays_counted() -> None:
    default, dropped, broken = (resident(n) for n in (1, 2, 3))
    for one in (default, dropped, broken):
        one.engine.counted = EngineFigures(  # type: ignore[attr-defined]
            kv_blocks=8, kv_blocks_used=2, prefix_tokens=100, prefix_tokens_reused=40, adapters=1
        )
    held = engines(default, dropped, broken)
    held.hold(default.model)
    assert held.figures()[1] == {"model-1": 1, "model-2": 0, "model-3": 0}
    held.drop_idle()
    held.discard(broken)
    held.discard(broken)
    figures, models = held.figures()
    assert models == {"model-1": 1}
    assert figures == EngineFigures(
        kv_blocks=8, kv_blocks_used=2, prefix_tokens=300, prefix_tokens_reused=120, adapters=1
    )


def test_one_that_is_wanted_no_more_asks_nobody_to_leave() -> None:
    default, used = resident(1), resident(2)
    held = engines(default, used, most=2)
    held.hold(used.model)
    wanted = threading.Event()
    wanted.set()
    answers: list[bool] = []
    waiter = threading.Thread(target=lambda: answers.append(held.make_room(wanted.is_set)))
    waiter.start()
    wait_until(lambda: used.is_leaving, "the other to be asked")
    assert held.hold(used.model) is None
    with held.changed:
        wanted.clear()
        held.changed.notify_all()
    waiter.join(5)
    assert answers == [False]
    assert held.hold(used.model) is used
