"""A process of ours for work on what strangers wrote: lines of JSON go in and come out. Knows nothing of the work.

It has none of the site's secrets and no files but those it is to work on, no TCP, one thread, limited memory, and
ends when whoever started it is gone, in the midst of whatever it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from queue import SimpleQueue

import msgspec

from training import confinement
from training.datasets.limits import CHILD_MEMORY, MAX_ANSWER

_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP")
_ROOT = Path(__file__).resolve().parents[2]
# The processes share out the cores themselves.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Process:
    """`python -m MODULE ARGUMENTS`, which calls `serve`."""

    def __init__(
        self, module: str, *arguments: str, reads: Collection[Path] = (), writes: Collection[Path] = ()
    ) -> None:
        """`reads`, `writes`: what it may, which is there; in the first of the latter lie its temporary files."""
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        if writes:
            environment["TMPDIR"] = str(next(iter(writes)))
        paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [*confinement.prefix(module, reads=reads, writes=writes, network="none"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment | _ONE_THREAD | {"PYTHONPATH": paths},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self.stdout = self._process.stdin, self._process.stdout
        self.heard = time.monotonic()  # when it last said something, or was asked
        self._rest = b""

    def ask(self, question: msgspec.Struct) -> None:
        self.heard = time.monotonic()
        try:
            self._stdin.write(msgspec.json.encode(question) + b"\n")
        except BrokenPipeError:
            pass  # it has died, which the end of its answers tells

    def answers(self) -> list[bytes] | None:
        """The lines it has said by now, waiting for something; None when it has died, or talks without end."""
        data = os.read(self.stdout.fileno(), 2**16)
        if not data or len(self._rest) > MAX_ANSWER:
            return None
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def end(self) -> int:
        """Its exit status."""
        self._process.kill()
        self._stdin.close()
        self.stdout.close()
        return self._process.wait()


Say = Callable[[msgspec.Struct], None]


def serve(answer: Callable[[bytes, Say], None], *, greeting: msgspec.Struct | None = None) -> None:
    """In the process: `answer` is given each line it is asked, and what to answer with, as often as it likes."""
    _limit_memory()
    # Whatever a library prints goes to the log, not among the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(said: msgspec.Struct) -> None:
        answers.write(msgspec.json.encode(said) + b"\n")

    asked: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    if greeting is not None:
        say(greeting)
    while True:
        answer(asked.get(), say)


def _listen(asked: SimpleQueue[bytes]) -> None:
    """Ends the process when whoever asks is gone."""
    for line in sys.stdin.buffer:
        asked.put(line)
    os._exit(0)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = CHILD_MEMORY if hard == resource.RLIM_INFINITY else min(CHILD_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
