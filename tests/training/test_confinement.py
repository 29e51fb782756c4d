"""What trains, and what works on data, opens the files it was given and no others: seen on real processes."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.training.jobs import prying
from training import confinement, launcher, trainer_process
from training.datasets import children
from training.datasets.parallel import Done, run_all
from training.datasets.progress import silent

pytestmark = pytest.mark.skipif(not confinement.is_possible(), reason="this kernel has no Landlock")


class Piece(msgspec.Struct):
    read: list[str]
    write: list[str]


class Opened(msgspec.Struct):
    read: list[bool]
    written: list[bool]


class Reach(msgspec.Struct):
    tcp: int  # a port that somebody listens at
    abstract: str  # an abstract socket
    process: int


class Reached(msgspec.Struct):
    tcp: bool
    abstract: bool
    signal: bool


def reach(asked: Reach, done: Done) -> Reached:
    return Reached(
        prying.connects(socket.AF_INET, ("127.0.0.1", asked.tcp)),
        prying.connects(socket.AF_UNIX, "\0" + asked.abstract),
        prying.signals(asked.process),
    )


def pry(piece: Piece, done: Done) -> Opened:
    return Opened(
        [prying.opens(path) for path in piece.read], [prying.opens(path, "ab") for path in piece.write]
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """As a site's state folder, which another user may not read and this one may."""
    for name in (
        "secret_key",
        "base.gguf",
        "datasets/rows",
        "jobs/1/spec.json",
        "models/blobs/weights",
        "tmp/of-another",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "models" / "linked").mkdir()
    (tmp_path / "models" / "linked" / "weights").symlink_to("../blobs/weights")
    return tmp_path


def theirs(state: Path) -> list[str]:
    """What holds secrets: a file, and the memory and the environment of whoever started them."""
    process = f"/proc/{os.getpid()}"
    # Whoever may trace everything, as root, sees any process's environment; nothing of a site is root.
    environment = "environ" if os.geteuid() else "mem"
    return [str(state / "secret_key"), f"{process}/mem", f"{process}/{environment}"]


@pytest.fixture
def handed() -> Iterator[str]:
    """As what two other programs of this user hand each other in memory."""
    with tempfile.NamedTemporaryFile(prefix="flywheel-prying-", dir="/dev/shm") as file:
        yield file.name


def test_work_on_data_opens_no_files_but_those_it_is_given(state: Path, handed: str) -> None:
    own = [
        str(state / "datasets" / "rows"),
        str(state / "models" / "linked" / "weights"),
        "/etc/hosts",
        "/dev/urandom",
    ]
    into = state / "jobs" / "1"
    others = [str(state / "datasets" / "rows"), str(state / "new"), handed]
    piece = Piece([*own, *theirs(state), handed], [str(into / "new"), *others])
    found = run_all(
        pry,
        [piece, piece],
        stage="prying",
        total=1,
        processes=2,
        progress=silent,
        reads=[state / "datasets", state / "models" / "linked"],
        writes=[into],
    )
    assert found == [Opened([True] * 4 + [False] * 4, [True, False, False, False])] * 2
    # Without it, all of that would be open.
    assert pry(piece, lambda amount: None) == Opened([True] * 8, [True] * 4)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    """As a broker that asks nobody on its machine who they are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_work_on_data_reaches_neither_the_broker_nor_other_processes(
    tmp_path: Path, tcp: socket.socket
) -> None:
    version = confinement._version()
    if version < confinement._WITH_NETWORK:
        pytest.skip("this kernel's Landlock knows no network")
    name = f"flywheel-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        asked = Reach(tcp.getsockname()[1], name, os.getpid())
        found = run_all(
            reach, [asked, asked], stage="prying", total=1, processes=2, progress=silent, writes=[tmp_path]
        )
        scoped = version < confinement._WITH_SCOPES
        assert found == [Reached(False, scoped, scoped)] * 2
        assert reach(asked, lambda amount: None) == Reached(True, True, True)


def test_what_looks_into_a_strangers_file_sees_that_file_alone(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way it is started: what it then does with real files is tested where they are."""
    started: list[list[str]] = []
    popen = subprocess.Popen

    def noting(command: list[str], **options: object) -> object:
        started.append(command)
        return popen(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", noting)
    children.detect(state / "datasets" / "rows", "rows.xlsx")
    ((*_, confined, read, write, network, module),) = started
    assert (confined, read, network, module) == (
        "training.confinement",
        f"--read={state / 'datasets' / 'rows'}",
        "--network=none",
        "training.datasets.child",
    )
    assert write.startswith(f"--write={tempfile.gettempdir()}/flywheel-")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_trainer_opens_no_files_but_its_own_and_one_that_is_alone_connects_to_nothing(
    state: Path, processes: int, monkeypatch: pytest.MonkeyPatch, tcp: socket.socket, handed: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(state / "tmp"))
    monkeypatch.setenv("TMPDIR", str(state / "tmp"))
    folder = state / "jobs" / "1"
    places = {"base": str(state / "base.gguf"), "dataset": str(state / "datasets"), "output": str(folder)}
    own = {
        "read": [places["base"], str(state / "datasets" / "rows"), "/etc/hosts", "/proc/self/status"],
        "write": [str(folder / "metrics.jsonl"), "/dev/null", prying.TEMPORARY],
    }
    others = [str(state / "new"), str(state / "datasets" / "new"), str(state / "tmp" / "new")]
    # Several on GPUs meet there.
    (own["write"] if processes > 1 else others).append(handed)
    process = [os.getpid()] if confinement._version() >= confinement._WITH_SCOPES else []
    prying_for: dict[str, list[Any]] = {
        "read": [*own["read"], *theirs(state), str(state / "tmp" / "of-another")],
        "write": [*own["write"], *others],
        "signal": process,
        "connect": [tcp.getsockname()[1]],
    }
    connects = processes > 1 or confinement._version() < confinement._WITH_NETWORK
    spec = folder / "spec.json"
    spec.write_text(json.dumps({**places, "prying": prying_for}))
    command = trainer_process.command(spec, processes)
    command[command.index(str(trainer_process.TRAINER))] = str(prying.__file__)
    done = subprocess.run(
        command,
        cwd=folder,
        env=trainer_process.environment("job", 1),
        capture_output=True,
        text=True,
        timeout=120,
    )
    launcher.forget("job")
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    expected = dict.fromkeys([*prying_for["read"], *prying_for["write"], *map(str, process)], False)
    expected |= {str(port): connects for port in prying_for["connect"]}
    assert said == [expected | dict.fromkeys([*own["read"], *own["write"]], True)] * processes, done.stderr


def test_without_it_in_the_kernel_everything_runs_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(confinement, "_version", lambda: 1)
    for cached in (confinement.is_possible, confinement._say):
        cached.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            commands = [confinement.prefix("training.trainer", reads=[Path("/srv")]) for _ in range(2)]
        assert commands == [[sys.executable, "-P", "-m", "training.trainer"]] * 2
        assert caplog.text.count("has no Landlock") == 1
    finally:
        for cached in (confinement.is_possible, confinement._say):
            cached.cache_clear()
