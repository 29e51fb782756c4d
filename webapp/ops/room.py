"""How little of a disk, or of the broker's memory, may be left before an operator should know. Knows neither."""

from __future__ import annotations

# Bytes. Below the first the append-only file and the logs of a busy day may not fit.
LEAST_DISK, _GOOD_DISK = 0.2e9, 2e9
# A share of a disk, unless so many bytes are left all the same.
_GOOD_SHARE, _PLENTY = 0.1, 20e9
# A share of what the broker may use; deploy/monitoring/alerts.yml has it, too.
_MOST_MEMORY = 0.8


def is_short_of_disk(*, free: float, size: float) -> bool:
    return free < _GOOD_DISK or free < min(_GOOD_SHARE * size, _PLENTY)


def is_short_of_memory(*, used: float, limit: float) -> bool:
    """`limit`: 0 where the broker has none."""
    return bool(limit) and used > _MOST_MEMORY * limit
