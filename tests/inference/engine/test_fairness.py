"""Workspaces take turns where there is not room for all: none gets much more than another, and none waits for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import fairness
from inference.engine.engine import TorchEngine
from inference.engine.fairness import FairQueue
from inference.engine.interface import EngineBusy, Request
from inference.engine.loader import load_engine
from inference.engine.sequence import Sequence
from inference.parameters import SamplingParams
from tests.inference.engine.running import Answer, ask, collect

_LONGEST = 20  # a prompt or an answer, in tokens
_ROOM = 3  # requests at once


@dataclass(eq=False)
class Job:
    salt: str
    prompt: int
    answer: int


class Server:
    """Serves what a FairQueue says: a prompt at once, then a token of every answer a step."""

    def __init__(self, max_waiting: int = 10_000) -> None:
        self.queue: FairQueue[Job] = FairQueue(max_waiting)
        self.running: list[Job] = []
        self.served: Counter[str] = Counter()

    def _serve(self, workspace: str, tokens: int) -> None:
        self.served[workspace] += tokens
        self.queue.charge(workspace, tokens)

    def step(self) -> list[str]:
        """Whose turn it was. One that was pushed out goes on, and is served no prompt again."""
        turns = []
        for job in self.queue.in_turn():
            if len(self.running) == _ROOM:
                break
            self.queue.remove(job)
            self.running.append(job)
            if job.prompt:
                turns.append(job.salt)
            self._serve(job.salt, job.prompt)
            job.prompt = 0
        for job in list(self.running):
            job.answer -= 1
            self._serve(job.salt, 1)
            if job.answer <= 0:
                self.running.remove(job)
        return turns


_JOBS = st.builds(
    Job, st.sampled_from("abc"), prompt=st.integers(1, _LONGEST), answer=st.integers(1, _LONGEST)
)


@given(st.lists(st.lists(_JOBS, max_size=4), max_size=60), st.data())
@settings(deadline=None)
def test_two_that_both_wait_are_served_alike_whatever_comes_when(
    arrivals: list[list[Job]], data: st.DataObject
) -> None:
    server = Server()
    # Since when each pair has waited without a break, and what each of the two had been served then.
    since: dict[tuple[str, str], tuple[int, int]] = {}
    waiting: Counter[str] = Counter()
    for jobs in arrivals:
        for job in jobs:
            server.queue.add(job)
            waiting[job.salt] += 1
        waiting.subtract(server.step())
        if server.running and data.draw(st.booleans(), label="push out"):
            server.queue.put_back(server.running.pop())
        for pair in (("a", "b"), ("a", "c"), ("b", "c")):
            now = server.served[pair[0]], server.served[pair[1]]
            if not all(waiting[workspace] for workspace in pair):
                since.pop(pair, None)
                continue
            before = since.setdefault(pair, now)
            ahead = (now[0] - before[0]) - (now[1] - before[1])
            # What the one that is ahead may have got beyond the other: a prompt, and the answers that were under way;
            # and so much the other way round when both began to wait.
            assert abs(ahead) <= 2 * (_LONGEST + _ROOM * _LONGEST)


@given(st.lists(_JOBS, max_size=60), st.integers(1, _LONGEST))
@settings(deadline=None)
def test_nobody_waits_for_longer_than_it_takes_to_serve_others_as_much(flood: list[Job], size: int) -> None:
    """However much others ask for, all the time."""
    server = Server()
    for job in flood:
        server.queue.add(job)
    for _ in range(10):
        server.step()
    late = Job("late", size, size)
    server.queue.add(late)
    waited = 0
    while "late" not in server.step():
        for workspace in "abc":
            server.queue.add(Job(workspace, 1, _LONGEST))
        # Its turn is the next but for those who wait with as little; a place is free when an answer has ended.
        waited += 1
        assert waited <= 2 * _LONGEST


@given(st.lists(st.sampled_from([*"abcdef"]), max_size=200), st.integers(1, 12))
def test_a_full_list_refuses_only_those_who_have_their_share_of_it(names: list[str], places: int) -> None:
    server = Server(max_waiting=places)
    waiting: Counter[str] = Counter()
    for name in names:
        others = len({*waiting, name})
        try:
            server.queue.add(Job(name, 1, 1))
        except EngineBusy:
            assert waiting.total() >= places
            assert waiting[name] >= places // others
        else:
            waiting[name] += 1
    assert len(server.queue) == waiting.total()
    assert max(waiting.values(), default=0) <= places
    assert waiting.total() <= places * sum(1 / n for n in range(1, 7))


def test_one_that_was_away_has_saved_up_nothing() -> None:
    server = Server()
    for _ in range(30):
        server.queue.add(Job("busy", 10, 1))
    server.queue.add(Job("idle", 10, 1))
    for _ in range(7):
        server.step()
    for _ in range(30):
        server.queue.add(Job("idle", 10, 1))
    turns = [turn for _ in range(6) for turn in server.step()]
    assert Counter(turns) == {"busy": 9, "idle": 9}


def test_one_that_comes_back_again_and_again_is_not_forgiven_what_it_had() -> None:
    """Without that, one large request at a time would get as many turns as small ones do."""
    server = Server()
    for _ in range(300):
        server.queue.add(Job("small", 1, 1))
    for _ in range(40):
        if not any(job.salt == "large" for job in (*server.running, *server.queue.in_turn())):
            server.queue.add(Job("large", 50, 1))
        server.step()
    assert server.served["large"] <= server.served["small"] + 51


def test_what_was_served_while_nobody_waited_does_not_count() -> None:
    server = Server()
    for _ in range(20):
        server.queue.add(Job("early", 100, 1))
        server.step()
    for name in ("early", "late") * 3:
        server.queue.add(Job(name, 10, 1))
    assert server.step() == ["early", "late", "early"]


def test_who_was_put_back_is_first_again_and_within_a_workspace_the_first_is() -> None:
    queue: FairQueue[Job] = FairQueue(10)
    jobs = [Job(name, n, 1) for n, name in enumerate("aab")]
    for job in jobs:
        queue.add(job)
    queue.charge("a", 5)
    older, newer = Job("c", 1, 1), Job("c", 2, 1)
    queue.put_back(newer)
    queue.put_back(older)
    assert list(queue.in_turn()) == [older, newer, jobs[2], jobs[0], jobs[1]]


def test_counters_do_not_grow_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "_REMEMBERED", 5)
    queue: FairQueue[Job] = FairQueue(10)
    queue.add(Job("waits", 1, 1))
    for n in range(100):
        passing = Job(str(n), 1, 1)
        queue.add(passing)
        queue.remove(passing)
        queue.charge(passing.salt, 10)
    assert len(queue._served) == 6
    queue.remove(next(queue.in_turn()))
    assert not queue._served


# --- In the engine ------------------------------------------------------------------------------------------
@pytest.fixture
def narrow(tiny_folder: Path) -> Iterator[TorchEngine]:
    engine = load_engine(tiny_folder, dtype="fp32", max_running=2, max_waiting=16)
    yield engine
    engine.check_integrity()
    engine.close()


def _of(workspace: str, number: int, **changes: object) -> Request:
    sampling = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    return ask(
        f"{workspace} {number}", f"{workspace}{number}", cache_salt=workspace, sampling=sampling, **changes
    )


def _order(engine: TorchEngine) -> list[str]:
    """Of the ends."""
    ends = []
    while engine.has_work:
        ends += [output.request_id for output in engine.step() if output.finish_reason]
    return ends


def test_a_workspace_that_asks_for_little_does_not_wait_for_one_that_asks_for_much(
    narrow: TorchEngine,
) -> None:
    for n in range(12):
        narrow.submit(_of("much", n))
    narrow.step()
    narrow.submit(_of("little", 0))
    assert "little0" in _order(narrow)[:4]


def test_turns_are_by_tokens_and_not_by_requests(narrow: TorchEngine) -> None:
    for n in range(2):
        narrow.submit(_of("first", n))
    narrow.step()
    for n in range(4):
        narrow.submit(ask("long " * 60, f"long{n}", cache_salt="long", sampling=_of("x", 0).sampling))
        narrow.submit(_of("short", n))
    order = _order(narrow)
    assert max(order.index(f"short{n}") for n in range(4)) < order.index("long1")


def test_choices_that_wait_for_their_prompt_keep_nobody_waiting(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32", max_running=4)
    for choice in range(3):
        engine.submit(ask("one " * 200, f"choice{choice}", choice=choice))
    engine.submit(ask("The", "other"))
    engine.step()  # as much of the prompt as one step takes
    engine.step()
    assert [sequence.id for sequence in engine._scheduler.running] == ["choice0", "other"]
    answers = {id: Answer() for id in ("choice0", "choice1", "choice2", "other")}
    collect(engine, answers)
    engine.check_integrity()
    engine.close()


def test_a_full_waiting_list_still_takes_in_another_workspace(narrow: TorchEngine) -> None:
    for n in range(16):
        narrow.submit(_of("much", n))
    with pytest.raises(EngineBusy):
        narrow.submit(_of("much", 16))
    narrow.submit(_of("little", 0))
    assert len(_order(narrow)) == 17


def test_what_is_computed_again_is_not_charged_again(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(tiny_folder, dtype="fp32", max_running=2, kv_tokens=128)
    sampling = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    charged: Counter[str] = Counter()
    charge = engine._scheduler.waiting.charge

    def watched(workspace: str, tokens: int) -> None:
        charged[workspace] += tokens
        charge(workspace, tokens)

    monkeypatch.setattr(engine._scheduler.waiting, "charge", watched)
    prompts = {name: f"{name} said " * 4 for name in "ab"}
    for name, prompt in prompts.items():
        engine.submit(ask(prompt, name, cache_salt=name, sampling=sampling))
    again: list[Sequence] = []
    put_back = engine._scheduler.waiting.put_back
    monkeypatch.setattr(engine._scheduler.waiting, "put_back", lambda s: (again.append(s), put_back(s)))
    while engine.has_work:
        engine.step()
    assert again, "nobody was pushed out"
    lengths = {name: len(engine.encode_prompt(ask(prompt))) for name, prompt in prompts.items()}
    # The last token of an answer is never computed.
    assert charged == {name: length + 2 * 59 for name, length in lengths.items()}
    engine.check_integrity()
    engine.close()
