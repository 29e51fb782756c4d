"""Large files of one workspace hold up neither small ones nor other workspaces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from django.db import connection
from django.utils import timezone

from tests.services import wait_until
from training import data_worker, services, tasks, work
from training.models import DataWork, SourceFile
from training.turns import Turns
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db(transaction=True)
Ask = Callable[[Workspace, str, int], None]


class Worker:
    """A worker's threads, and what of each piece of work is to be waited for."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end: dict[str, threading.Event] = {}
        self.threads: list[threading.Thread] = []

    def do(self, piece: DataWork, progress: data_worker.Keeper) -> bool:
        name = piece.dataset.name
        self.begun.append(name)
        assert self.may_end[name].wait(30)
        return work.end_work(
            work=piece, expected=DataWork.State.RUNNING, state=DataWork.State.READY, result={}
        )

    def ends(self, name: str) -> None:
        self.may_end[name].set()

    def has_begun(self, *names: str) -> None:
        wait_until(lambda: len(self.begun) >= len(names), f"{names} to begin", 10)
        assert self.begun == list(names)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    worker = Worker()
    monkeypatch.setitem(data_worker._DOING, DataWork.Kind.REPORT, worker.do)
    yield worker
    for event in worker.may_end.values():
        event.set()
    for thread in worker.threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def ask(worker: Worker, alice: User) -> Ask:
    def ask(workspace: Workspace, name: str, size: int) -> None:
        dataset = services.create_dataset(user=alice, workspace=workspace, name=name)
        SourceFile.objects.create(
            dataset=dataset, name=name, size=size, received=size, state=SourceFile.State.READY,
            reading={"layout": "jsonl", "shape": "labelled"}, received_at=timezone.now(),
        )  # fmt: skip
        report, before = services.start_report(dataset=dataset), len(worker.begun)
        worker.may_end[name] = threading.Event()
        over = threading.Event()

        def run() -> None:
            try:
                tasks.run(str(report.pk))
            finally:
                over.set()
                connection.close()

        worker.threads.append(threading.Thread(target=run))
        worker.threads[-1].start()
        wait_until(lambda: over.is_set() or len(worker.begun) > before, f"{name} to begin, or to wait", 10)

    return ask


def test_large_files_take_turns_and_leave_room_for_small_ones(
    ask: Ask, worker: Worker, workspace: Workspace, elsewhere: Workspace
) -> None:
    for name in ("first", "second", "third", "fourth"):
        ask(workspace, name, 20 * 2**30)
    ask(elsewhere, "theirs", 20 * 2**30)
    ask(workspace, "small", 5000)
    worker.has_begun("first", "second", "small")
    worker.ends("first")
    worker.has_begun("first", "second", "small", "third")
    worker.ends("second")
    worker.has_begun("first", "second", "small", "third", "theirs")
    worker.ends("third")
    worker.has_begun("first", "second", "small", "third", "theirs", "fourth")
    for name in worker.may_end:
        worker.ends(name)
    wait_until(lambda: not DataWork.objects.exclude(state="ready").exists(), "all of it", 10)


def test_a_worker_that_is_told_to_stop_begins_nothing_more(
    ask: Ask, worker: Worker, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_worker, "turns", Turns(most=1))
    for name in ("first", "second"):
        ask(workspace, name, 20 * 2**30)
    tasks._stop()
    worker.ends("first")
    worker.threads[0].join(30)
    worker.has_begun("first")
    assert [each.state for each in DataWork.objects.order_by("created_at")] == ["ready", "queued"]
