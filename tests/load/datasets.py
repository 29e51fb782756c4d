"""How long a customer's file takes from its bytes to a frozen dataset, and how much memory that needs.

python -m tests.load.datasets FILE FOLDER MODEL        reads, profiles and freezes it in this process and its children
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.load.bench import Row
from tests.load.million_rows import write_chats
from training.datasets.clean import freeze
from training.datasets.profile import profile
from training.datasets.reading import read_sources
from training.datasets.recipe import Recipe
from training.datasets.sources import Reading, Source

_ROWS = 1_000_000
_MAX_TOKENS = 512


def million_rows() -> Iterator[Row]:
    """All of it on two cores: validated, in the demo model's tokens, deduplicated, personal data redacted, frozen."""
    seconds, megabytes = _measured(_ROWS)
    yield Row.at_most("data.million.seconds", seconds, 480, "s")
    yield Row.at_most("data.million.memory", megabytes, 1500, "MB")


def fifty_rows() -> Iterator[Row]:
    """A process that starts for it included."""
    yield Row.at_most("data.fifty.seconds", _measured(50)[0], 2, "s")


def _measured(rows: int) -> tuple[float, float]:
    """Seconds, and the most megabytes that all processes together held: what they share counted once (PSS)."""
    from tests.demo_model import demo_model

    model = demo_model()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_chats(folder / "chats.jsonl", rows)
        started, most = time.monotonic(), 0
        run = [sys.executable, "-m", __name__, str(folder / "chats.jsonl"), str(folder / "work"), str(model)]
        with psutil.Popen(run) as process:
            while process.poll() is None:
                most = max(most, _held([process, *_children(process)]))
                with contextlib.suppress(psutil.TimeoutExpired, subprocess.TimeoutExpired):
                    process.wait(0.2)
            seconds = time.monotonic() - started
        if process.returncode:
            raise RuntimeError(f"It ended with exit status {process.returncode}.")
        return seconds, most / 1e6


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _held(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def _run(file: Path, folder: Path, model: Path) -> None:
    folder.mkdir()
    last = 0.0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(f"    {last - started:5.0f} s  {stage}: {done / max(total, 1):.0%}", flush=True)

    started = last = time.monotonic()
    source = Source(file, file.name, Reading("jsonl", "chat"))
    read = read_sources([source], folder, progress=progress)
    report = profile(
        folder, model=model, max_tokens=_MAX_TOKENS, files=[file.name], read=read, progress=progress
    )
    recipe = Recipe(deduplicate="near", redact=["email", "phone"], max_tokens=_MAX_TOKENS, too_long="cut")
    manifest = freeze(folder, recipe, folder / "frozen", parent="", model=model, progress=progress)
    assert report.usable == read.usable
    assert manifest.splits["train"].examples > 0


if __name__ == "__main__":
    _run(*map(Path, sys.argv[1:4]))
