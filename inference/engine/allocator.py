"""How the C library keeps freed memory. Knows nothing of engines; elsewhere than with glibc it does nothing."""

from __future__ import annotations

import ctypes

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
