"""Why a job ended early: a stable code, a sentence, and the exit status of each. Knows nothing of training."""

from __future__ import annotations

import errno

import torch

# What `python -m training.trainer` exits with. torchrun hides it behind its own: status.json says the same.
EXIT_STATUS = {"spec": 2, "stopped": 3, "data": 4, "nan": 5, "disk": 6, "oom": 7, "checkpoint": 8, "model": 9}


class TrainingFailure(Exception):
    """The job cannot go on. `code` is a key of EXIT_STATUS; the message is a sentence a person can act on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Stopped(Exception):
    """The job was told to stop, and what it had learnt is saved."""


def classified(error: BaseException) -> TrainingFailure | None:
    """A typed failure for an error of the machine; None where it is a defect of ours."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TrainingFailure("disk", "There is no room left on the disk; the last checkpoint is kept.")
    if isinstance(error, OSError):
        return TrainingFailure("disk", f"A file could not be read or written: {text}.")
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text):
        return TrainingFailure(
            "oom",
            "There is not enough memory; lower microbatch_tokens or max_length, or turn gradient_checkpointing on.",
        )
    return None
