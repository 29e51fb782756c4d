"""Trainers as real processes, without what starting them costs: they come from one that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path

from training.trainer.command import main

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])


def start(spec: Path, processes: int = 1) -> list[BaseProcess]:
    """As torchrun starts them, each with one thread."""
    meeting = tempfile.mktemp(dir=spec.parent)
    started: list[BaseProcess] = []
    for rank in range(processes):
        process = _forks.Process(target=_trainer, args=(spec, rank, processes, meeting))
        process.start()
        started.append(process)
    return started


def _trainer(spec: Path, rank: int, processes: int, meeting: str) -> None:
    if processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
        os.environ |= {"FLYWHEEL_MEETING": meeting} | {name: str(value) for name, value in place.items()}
    sys.exit(main([str(spec)]))
