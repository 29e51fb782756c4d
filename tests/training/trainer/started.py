"""Trainers as real processes, without what starting them costs: they come from one that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from training.trainer.command import main

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__, "tests.training.trainer.uneven"])


def start(
    spec: Path, processes: int = 1, *, prepare: Callable[[int], None] | None = None, by_hand: bool = False
) -> list[BaseProcess]:
    """As torchrun starts them, each with one thread; `by_hand`: as it does without our launcher. `prepare` is called in
    each, with its rank."""
    meeting: dict[str, object] = {"FLYWHEEL_MEETING": tempfile.mktemp(dir=spec.parent)}
    if by_hand:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    started: list[BaseProcess] = []
    for rank in range(processes):
        process = _forks.Process(target=_trainer, args=(spec, rank, processes, meeting, prepare))
        process.start()
        started.append(process)
    return started


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _trainer(
    spec: Path, rank: int, processes: int, meeting: dict[str, object], prepare: Callable[[int], None] | None
) -> None:
    if processes > 1:
        place = meeting | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
        os.environ |= {name: str(value) for name, value in place.items()}
    if prepare is not None:
        prepare(rank)
    sys.exit(main([str(spec)]))
