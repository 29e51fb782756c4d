"""`python -m training.launcher [FLAG...] N SCRIPT SPEC.json`: `torchrun --standalone` for one job, of one process or of
many. `FLAG`: what it is kept to (training/confinement.py).

torchrun is asked for what it can do and does not by itself:

- Its processes are forked from it once torch is there, so all of them share what was imported: watching over one costs
  7 MB and a fifth of a second, and not a second Python with a second torch.
- They meet in a file that only this user reads, in a folder of the job alone, where its temporary files are, too. Its
  own port is open to the whole network, and what comes in there is unpickled.
- It ends as the first of them that failed did, and not with a status of its own: on a full disk that is all a trainer
  can say (trainer/failures.py).
"""

from __future__ import annotations

import gc
import glob
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training import confinement
from training.trainer.failures import EXIT_STATUS
from training.trainer.orphans import MARK
from training.trainer.orphans import SECONDS as ORPHANED_SECONDS

# Seconds. Who meets others tells them every five that it lives, here in a file that only grows and that nobody reads.
_NEVER = 10**8
MEMORY = Path("/dev/shm")  # noqa: S108


def main(arguments: list[str]) -> int:
    own = tempfile.mkdtemp(prefix=_prefix(os.environ.get(MARK, "")), dir=_memory())
    try:
        with _semaphores(int(arguments[-3])):
            confinement.obey(arguments, Path(own))  # before there are threads
            os.environ["TMPDIR"] = tempfile.tempdir = own
            script, spec = map(os.path.abspath, arguments[1:])
            os.chdir(own)  # --standalone calls where they meet "localhost:0", which of a file is a path
            return _launch(arguments[0], script, spec, own)
    finally:
        # What is in it: the folder itself goes with `forget`, where there is no way from it to what is beside it.
        shutil.rmtree(own, ignore_errors=True)


def _launch(processes: str, script: str, spec: str, own: str) -> int:
    # Nothing of what all of them share is copied by what looks for garbage in it.
    gc.disable()
    from torch.distributed.elastic.multiprocessing import api
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    import training.trainer.command  # noqa: F401

    gc.freeze()
    gc.enable()
    api.logger.addFilter(_is_news)
    os.environ["FLYWHEEL_MEETING"] = os.path.join(own, "meeting")
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    options = {
        "rdzv-conf": f"store_type=file,keep_alive_interval={_NEVER}", "local-addr": "127.0.0.1",
        "nproc-per-node": processes, "start-method": "fork", "shutdown-timeout": ORPHANED_SECONDS,
        "log-dir": own,
    }  # fmt: skip
    flags = ["--standalone", *(f"--{name}={value}" for name, value in options.items()), "--run-path"]
    try:
        torchrun([*flags, script, spec])
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode in EXIT_STATUS.values():
            return failure.exitcode
        sys.stderr.write(f"Process {rank} of the job ended with exit status {failure.exitcode}.\n")
        return 1
    return 0


@contextmanager
def _semaphores(processes: int) -> Iterator[None]:
    """What torchrun asks for its processes with, made beforehand: each semaphore begins as a file beside those of all
    other programs, where nothing can be made later."""
    context = multiprocessing.get_context("fork")
    event, queues = context.Event(), [context.SimpleQueue() for _ in range(processes)]
    vars(context).update(Event=lambda: event, SimpleQueue=queues.pop)
    try:
        yield
    finally:
        del vars(context)["Event"], vars(context)["SimpleQueue"]


def forget(job: str) -> None:
    """Removes what launchers of it left that were killed."""
    for left in Path(_memory()).glob(f"{glob.escape(_prefix(job))}*"):
        shutil.rmtree(left, ignore_errors=True)


def _prefix(job: str) -> str:
    return f"flywheel-{os.path.basename(job)}-"


def _memory() -> str:
    """A folder of it, where there is one: on a full disk a job has to begin, to say that it is full."""
    return str(MEMORY) if os.access(MEMORY, os.W_OK) else tempfile.gettempdir()


def _is_news(record: logging.LogRecord) -> bool:
    """Who ends with a status has said why; of errors it is torchrun that writes down where they were."""
    from torch.multiprocessing.spawn import ProcessExitedException

    return not (record.exc_info and isinstance(record.exc_info[1], ProcessExitedException))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
