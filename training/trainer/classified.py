"""Errors of the machine as typed failures: a full disk, too little memory. Knows nothing of training.

Apart from failures.py, which is read where there is no torch.
"""

from __future__ import annotations

import errno

import torch

from training.trainer.failures import TrainingFailure

# What is said of a GPU without room by whoever is not torch's allocator: the driver, and the libraries of products.
_NO_ROOM = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def classified(error: BaseException) -> TrainingFailure | None:
    """A typed failure for an error of the machine; None where it is a defect of ours."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TrainingFailure("disk", "There is no room left on the disk; the last checkpoint is kept.")
    if isinstance(error, OSError):
        return TrainingFailure("disk", f"A file could not be read or written: {text}.")
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or (isinstance(error, RuntimeError) and any(words in text for words in _NO_ROOM)):
        return TrainingFailure(
            "oom",
            "There is not enough memory; lower microbatch_tokens or max_length, or turn gradient_checkpointing on.",
        )
    return None
