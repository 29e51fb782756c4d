"""Why a job ended early: a stable code, a sentence, and the exit status of each. Knows nothing of training."""

from __future__ import annotations

# What `python -m training.trainer` exits with, and `training.launcher` after it.
EXIT_STATUS = {"spec": 2, "stopped": 3, "data": 4, "nan": 5, "disk": 6, "oom": 7, "checkpoint": 8, "model": 9}


class TrainingFailure(Exception):
    """The job cannot go on. `code` is a key of EXIT_STATUS; the message is a sentence a person can act on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Stopped(Exception):
    """The job was told to stop, and what it had learnt is saved."""
