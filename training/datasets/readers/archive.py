"""The files in a ZIP, unpacked one at a time to a file of our own naming. Knows nothing of what is in them.

A member's name is only ever shown: it is never a path, so where it climbs to does not matter.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from training.datasets.codes import shown
from training.datasets.limits import FREE_UNPACKED, MAX_MEMBERS, MAX_RATIO, MAX_UNPACKED
from training.datasets.problems import DataError
from training.datasets.readers.packages import open_package

_CHUNK = 2**20
_DEBRIS = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")


class Member(NamedTuple):
    name: str  # the archive's and its own
    size: int
    is_whole: bool
    refused: DataError | None  # why it was not unpacked
    behind: int  # bytes of the archive that were unpacked before it


def unpack_each(
    path: Path,
    name: str,
    to: Path,
    *,
    most: int = sys.maxsize,
    order: Callable[[str, int], Any] | None = None,
) -> Iterator[Member]:
    """Each member in turn is what `to` holds, until the next is asked for; of a larger one, its first `most` bytes.

    As they lie in the archive, or in the `order` of their names and sizes.
    Raises DataError `broken_file`, `too_many_files`, `expands_too_much`.
    """
    with open_package(path) as package:
        members = [member for member in package.infolist() if not member.is_dir()]
        if len(members) > MAX_MEMBERS:
            raise DataError(
                "too_many_files", f"The archive has {len(members)} files; at most {MAX_MEMBERS} are read."
            )
        if order is not None:
            members.sort(key=lambda member: order(member.filename, member.file_size))
        left, behind = min(MAX_UNPACKED, FREE_UNPACKED + MAX_RATIO * path.stat().st_size), 0
        for member in members:
            if member.filename.startswith(_DEBRIS[0]) or member.filename.rpartition("/")[2] in _DEBRIS:
                continue
            refused, size = None, 0
            try:
                size = _unpack(package, member, to, left, most)
            except DataError as error:
                if error.code == "expands_too_much":
                    raise
                refused = error
            left -= size
            # zipfile gives out no more of a member than the archive says it has.
            shown_name, is_whole = f"{name}/{shown(_name(member), 200)}", member.file_size <= most
            yield Member(shown_name, size, is_whole, refused, behind)
            behind += member.compress_size


def _name(member: zipfile.ZipInfo) -> str:
    """In UTF-8 also where an archive does not say so, as macOS does not."""
    try:
        return member.filename if member.flag_bits & 0x800 else member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename


def _unpack(package: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path, left: int, most: int) -> int:
    size = 0
    # One that is cut to nothing and written anew, ext4 flushes to the disk each time.
    to.unlink(missing_ok=True)
    with to.open("xb") as unpacked:
        for chunk in _chunks(package, member, most):
            size += len(chunk)
            if size > left:
                raise DataError(
                    "expands_too_much", "The archive unpacks to far more than it could sensibly hold."
                )
            unpacked.write(chunk)
    return size


def _chunks(package: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
    if member.flag_bits & 0x1:
        raise DataError("encrypted_file", "The file is locked with a password.")
    try:
        with package.open(member) as packed:
            while chunk := packed.read(min(_CHUNK, most)):
                yield chunk
                most -= len(chunk)
    except MemoryError:
        raise
    except Exception as error:  # zipfile and its decompressors stumble in many ways
        raise DataError("broken_file", f"The file is damaged: {error}.") from error
