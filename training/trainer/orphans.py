"""A trainer whose worker died saves while nobody else can have the job, and no longer. Knows nothing of training."""

from __future__ import annotations

import os
import signal

# Less than the lease of its job (`training.job_life.LEASE`): then it may go on elsewhere, in the same folder.
SECONDS = 20
# In the environment of what a worker starts, and of what that starts: the job it is of.
MARK = "FLYWHEEL_JOB"


class Parent:
    """Whoever started this process: a worker, or torchrun, which ends those it started in as many seconds."""

    def __init__(self) -> None:
        self._pid = os.getppid()

    def limit_if_gone(self) -> None:
        """For a handler of SIGTERM, which comes when the parent dies (`webapp.core.tether`). SIGALRM then ends this."""
        if MARK in os.environ and os.getppid() != self._pid:
            signal.alarm(SECONDS)
