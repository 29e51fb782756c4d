"""Work in other processes comes back in order, and ends with whoever asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from training.datasets.limits import CHILD_MEMORY
from training.datasets.parallel import Done, run_all
from training.datasets.problems import DataError
from training.datasets.progress import Cancelled, silent


class Piece(msgspec.Struct):
    number: int
    what: str = ""


class Result(msgspec.Struct):
    number: int
    said: str = ""


def work(piece: Piece, done: Done) -> Result:
    done(piece.number)
    match piece.what:
        case "full":
            raise OSError(28, "No space left on device")
        case "broken":
            raise DataError("broken", "It is broken.")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "secret":
            return Result(piece.number, os.environ.get("SECRET_KEY", "") + os.environ.get("DATABASE_URL", ""))
        case "noise":
            print("a library's greeting")
        case "greedy":
            bytearray(2 * CHILD_MEMORY)
        case "silent":
            signal.pause()
        case "forever":
            while True:
                time.sleep(0.01)
                done(0)
    return Result(piece.number)


def run(*pieces: Piece, processes: int = 2) -> list[Result]:
    return run_all(work, pieces, stage="working", total=10, processes=processes, progress=silent)


def workers() -> list[psutil.Process]:
    """Other tests of this process may have children of their own."""
    return [child for child in psutil.Process().children() if "training.datasets.parallel" in child.cmdline()]


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_pieces_and_progress_adds_up(processes: int) -> None:
    heard: list[tuple[str, int, int]] = []
    pieces = [Piece(number, "noise") for number in range(7)]
    results = run_all(
        work,
        pieces,
        stage="working",
        total=21,
        processes=processes,
        progress=lambda *said: heard.append(said),
    )
    assert [result.number for result in results] == [*range(7)]
    assert heard[0] == ("working", 0, 21)
    assert heard[-1] == ("working", 21, 21)


@pytest.mark.parametrize(
    ("what", "code"), [("full", "disk_full"), ("broken", "broken"), ("die", "worker_lost")]
)
def test_what_a_process_ends_of_has_a_code(what: str, code: str) -> None:
    with pytest.raises(DataError) as caught:
        run(Piece(1), Piece(2, what), Piece(3))
    assert caught.value.code == code
    assert not workers()


def test_the_sites_secrets_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "secret")
    monkeypatch.setenv("DATABASE_URL", "secret")
    assert [result.said for result in run(Piece(1, "secret"), Piece(2, "secret"))] == ["", ""]


def test_cancelling_stops_work_in_the_midst_of_it() -> None:
    def cancel(stage: str, done: int, total: int) -> None:
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_all(work, [Piece(1, "forever")] * 2, stage="working", total=1, processes=2, progress=cancel)
    assert not workers()


def test_cancelling_is_heard_although_the_processes_are_silent() -> None:
    heard: list[int] = []

    def cancel(stage: str, done: int, total: int) -> None:
        heard.append(done)
        if len(heard) > 3:  # at the beginning, and what each says before it falls silent
            raise Cancelled

    with pytest.raises(Cancelled):
        run_all(work, [Piece(0, "silent")] * 2, stage="working", total=1, processes=2, progress=cancel)
    assert not workers()


def test_a_process_that_takes_too_much_memory_ends_alone() -> None:
    with pytest.raises(DataError) as caught:
        run(Piece(1), Piece(2, "greedy"))
    assert caught.value.code == "worker_lost"


def test_children_end_when_their_parent_is_killed() -> None:
    code = (
        "from tests.training.datasets.test_parallel import *\n"
        "import sys\n"
        "def say(stage, done, total):\n"
        "    if done: print(*[c.pid for c in psutil.Process().children()], flush=True)\n"
        "run_all(work, [Piece(1, 'forever')] * 2, stage='', total=1, processes=2, progress=say)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_children_load_neither_django_nor_torch() -> None:
    code = "import training.datasets.measure, training.datasets.prepare, sys; print(*sys.modules)"
    root = Path(__file__).parents[3]
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert not {"django", "torch", "celery", "training.apps"} & set(loaded.stdout.split())
