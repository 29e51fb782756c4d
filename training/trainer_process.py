"""A trainer as processes of its own: started without our secrets, told to stop, ended whole. Knows no database.

`torchrun` launches them (launcher.py). What belongs to a job is known by a mark in its environment, which whatever it
starts inherits: also what a killed worker left. Its own worker knows it by its session, too: to be overlooked, it has
to leave both.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import psutil

from training import confinement, launcher
from training.trainer.orphans import MARK
from webapp.core.plain_files import open_plain
from webapp.core.tether import tether

logger = logging.getLogger(__name__)

# What is killed is gone within this, or not at all.
ENDING_SECONDS = 5.0
# Chat gets nine tenths of a core that both want, and more from what learns (trainer/giving_way.py).
NICE = 10
# Where memory runs out it is the trainer that the kernel ends, and not the broker or the engine: a job resumes. Limits
# of its address space would not do, since GPUs and threads reserve far more of it than they ever use.
_OUT_OF_MEMORY_FIRST = 800
_LOG_BYTES = 10 * 2**20
# Of the environment, what finding programs, GPUs and other processes needs; settings of the site may be secret.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
_KEPT_BEGIN = ("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "HIP_", "ROCR_")
_ROOT = Path(__file__).resolve().parents[1]
TRAINER = _ROOT / "training" / "trainer" / "__main__.py"


def command(spec: Path, processes: int) -> list[str]:
    """A worker that dies takes torchrun with it, and that its trainers: each saves first. The job's folder is there."""
    given = json.loads(spec.read_bytes())
    reads = [Path(given[name]) for name in ("base", "dataset") if given.get(name)]
    # In the second, GPUs keep what was compiled for them. Temporary files lie in the launcher's own folder.
    writes = [Path(given["output"]), Path(os.path.expanduser("~/.nv"))]
    # torchrun asks the system for a port that is free, also where nobody will use it.
    network: confinement.Network = "passive"
    if processes > 1:
        # They talk with one another; those on GPUs by files among those of all programs, too, which NCCL names.
        network, writes = "all", [*writes, launcher.MEMORY]
    flags = confinement.flags(reads=[spec, *reads], writes=writes, network=network)
    launch = [sys.executable, "-P", "-m", launcher.__name__, *flags]
    return [*tether(), *launch, str(processes), str(TRAINER), str(spec)]


def environment(job: str, threads: int) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_BEGIN)
    }
    return kept | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": str(threads), MARK: job}


class NotEnded(Exception):
    """Processes of a job are still there although they were killed: the kernel waits for a device, or a disk."""


class TrainerProcess:
    """Of one attempt at a job."""

    def __init__(
        self,
        folder: Path,
        job: str,
        spec: Path,
        *,
        processes: int,
        threads: int,
        heading: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """`heading`: the first line of its log, as JSON. Raises OSError."""
        self._job, self._log = job, folder / "trainer.log"
        with open_plain(folder, self._log, "ab") as log:
            if log.tell() > _LOG_BYTES:
                log.truncate(0)
            if heading:
                log.write(json.dumps(dict(heading)).encode() + b"\n")
            self._log_from = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                command(spec, processes),
                cwd=folder,
                env=environment(job, threads),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # What it starts inherits both.
        with contextlib.suppress(OSError):
            nice = max(NICE, os.getpriority(os.PRIO_PROCESS, 0))
            os.setpriority(os.PRIO_PROCESS, self._process.pid, nice)
        with contextlib.suppress(OSError):
            # Where the kernel shares out by sessions first, as on desktops, a process is nice within its own only.
            Path(f"/proc/{self._process.pid}/autogroup").write_text(str(NICE))
        with contextlib.suppress(OSError):  # only Linux has it
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text(str(_OUT_OF_MEMORY_FIRST))

    def ended(self, seconds: float) -> bool:
        """Whether it has, waiting up to `seconds` for it."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _trainers(self, *, and_theirs: bool = False) -> list[psutil.Process]:
        """What torchrun has forked and, `and_theirs`, what that started; itself as long as there is none."""
        with contextlib.suppress(psutil.Error):
            launcher = psutil.Process(self._process.pid)
            return launcher.children(recursive=and_theirs) or [launcher]
        return []

    def memory(self) -> int:
        """Bytes that they hold for themselves; of files that are read, the kernel can forget what it keeps."""
        held = 0
        for process in self._trainers(and_theirs=True):
            with contextlib.suppress(psutil.Error):
                used = process.memory_info()
                held += used.rss - getattr(used, "shared", 0)
        return held

    def stop(self) -> None:
        """Asks them to save and end: torchrun would pass that on, and kill those that take longer than it likes."""
        for process in self._trainers():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)

    @property
    def exit_status(self) -> int | None:
        """Once it has ended; negative where a signal ended it."""
        return self._process.returncode

    def kill(self) -> None:
        """All of it is gone afterwards. Raises NotEnded."""
        end_left(self._job, session=self._process.pid)
        self._process.kill()
        self._process.wait()

    def last_words(self) -> str:
        """The end of what this attempt wrote into its log."""
        with open_plain(self._log.parent, self._log) as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_from, size - 2**16))
            return log.read().decode(errors="replace")


def marked(job: str, session: int = 0) -> list[psutil.Process]:
    """The processes of a job that are on this machine; and those of its `session` whose environment is another's."""
    return [process for process in psutil.process_iter() if _is_of(process, job, session)]


def _is_of(process: psutil.Process, job: str, session: int) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        if session and os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
            return True
        return process.environ().get(MARK) == job
    return False


def end_left(job: str, seconds: float = ENDING_SECONDS, *, session: int = 0) -> None:
    """kill -9 for whatever is left of a job, until nothing is. Raises NotEnded where something does not go."""
    deadline = time.monotonic() + seconds
    while left := marked(job, session):
        if time.monotonic() > deadline:
            raise NotEnded(f"processes of job {job} cannot be ended: {[process.pid for process in left]}")
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.5)
    launcher.forget(job)
