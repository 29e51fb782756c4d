"""A child process that does not outlive its parent. Knows nothing of what either does."""

from __future__ import annotations

import shutil


def tether() -> list[str]:
    """A command prefix with which a process gets SIGTERM when its parent dies, however that dies."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
