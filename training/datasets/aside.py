"""Makes a file or folder aside and puts it in its place when it is whole. Knows nothing of what is in it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.datasets.problems import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, or a quota


def disk_full(error: OSError) -> DataError | None:
    """The error a person can act on, where that is what it is."""
    if error.errno in _FULL:
        return DataError("disk_full", "The disk is full; free some space and try again. Nothing was changed.")
    return None


@contextmanager
def folder_aside(out: Path) -> Iterator[Path]:
    """An empty folder that becomes `out`, on disk to the last byte, unless something is raised: then it is gone.

    What is left of one whose process was killed is taken away first. Raises DataError `disk_full`.
    """
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
        partial.rename(out)
        _sync(out.parent)
    except OSError as error:
        raise disk_full(error) or error from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_aside(file: Path, data: bytes) -> None:
    """Raises DataError `disk_full`, and then the old file is still there."""
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_bytes(data)
        _sync(partial)
        partial.replace(file)
    except OSError as error:
        raise disk_full(error) or error from error
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
