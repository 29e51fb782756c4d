"""Who reads what a command prints. Knows no command."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def who_may_leave() -> Iterator[None]:
    """A reader that has seen enough, as `head`, ends the command: quietly, and with the status the signal gives."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _has_left():
            raise  # somebody else's pipe, or socket
        # What is left over would be written, and fail, once more at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _has_left() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))
