"""`make run`: from a fresh clone until the site is ready, how long it says nothing meanwhile, and the next start.

The fresh one downloads everything, so its time is an upper bound of one without downloads.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.load.bench import Row
from tests.services import ROOT, minimal_environment
from webapp.ops import broker

_READY = "Flywheel is ready at"
_PATIENCE_SECONDS = 900


class Start(NamedTuple):
    seconds: float  # until it was ready
    silence: float  # the longest time without a word


def make_run(clone: Path, port: int) -> Start:
    """Raises AssertionError with what it said where it does not come up. The site is stopped again."""
    environment = {**minimal_environment(), "PORT": str(port)}
    environment.pop("VIRTUAL_ENV", None)
    began = last = time.monotonic()
    silence, said = 0.0, []
    with subprocess.Popen(
        ["make", "run"],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                now = time.monotonic()
                silence, last = max(silence, now - last), now
                said.append(line)
                if _READY in line or now - began > _PATIENCE_SECONDS:
                    break
            assert any(_READY in line for line in said), "".join(said)
            return Start(last - began, silence)
        finally:
            os.killpg(child.pid, signal.SIGINT)
            child.stdout.read()
            child.wait(60)


def first_and_next() -> Iterator[Row]:
    folder = Path(tempfile.mkdtemp(prefix="fwfresh"))
    try:
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "flywheel")], check=True)
        port = broker.free_port()
        fresh = make_run(folder / "flywheel", port)
        yield Row.at_most("ops.start.fresh", fresh.seconds, 300, "s")
        yield Row.at_most("ops.start.silence", fresh.silence, 10, "s")
        yield Row.at_most("ops.start.again", make_run(folder / "flywheel", port).seconds, 15, "s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
