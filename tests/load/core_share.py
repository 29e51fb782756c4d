"""A share of a core for a process, kept by the kernel: a small machine tells what each does on a core of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_PERIOD = 20_000  # µs: short, so that a process waits at most that long for its next share


class NoShares(Exception):
    """This machine gives none out."""


@contextmanager
def core_share(share: float, *pids: int) -> Iterator[None]:
    """Each of these processes, with its threads, gets so much of a core and no more.

    Control groups of either version. Raises NoShares where they cannot be made.
    """
    made: list[Path] = []
    try:
        try:
            for pid in pids:
                made.append(_group(pid, share))
        except OSError as error:
            raise NoShares(f"Only root shares a core out by control groups: {error}") from error
        yield
    finally:
        for group in made:
            for member in (group / "cgroup.procs").read_text().split():
                _move(int(member), group.parent)
            group.rmdir()


def _group(pid: int, share: float) -> Path:
    version_1 = _GROUPS / "cpu"  # has a tree for each controller
    group = (version_1 if version_1.is_dir() else _GROUPS) / f"flywheel-bench-{pid}"
    group.mkdir()
    quota = round(share * _PERIOD)
    if version_1.is_dir():
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    else:
        (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
    _move(pid, group)
    return group


def _move(pid: int, group: Path) -> None:
    if psutil.pid_exists(pid):
        (group / "cgroup.procs").write_text(str(pid))
