"""How freed memory goes back to the system. Knows nothing of engines; of C libraries it knows glibc alone."""

from __future__ import annotations

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most glibc takes; a step's logits over a large vocabulary are smaller for any usual number of sequences.
_KEPT = 32 * 2**20


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_what_steps_use() -> None:
    """Logits and probabilities are some MiB in every step. By default they are mapped and unmapped each time, and
    touching new pages was a twelfth of a step of 32 sequences."""
    if glibc := _glibc():
        glibc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        glibc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back() -> None:
    """What loading or steps used and freed. Takes some milliseconds, and the next steps some more."""
    if glibc := _glibc():
        glibc.malloc_trim(0)


def give_back_all() -> None:
    """What a model had that is gone, on the GPU too."""
    gc.collect()
    give_back()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
