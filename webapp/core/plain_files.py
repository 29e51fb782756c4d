"""Files in a folder that a program of ours writes into which strangers' data may have taken over.

It is kept from the site's other files (`training.confinement`), and whoever takes over what it wrote is not: what lies
there may be a link to one of them, a pipe that never answers, or larger than memory. Knows not what the files are.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import IO, Any


def open_plain(folder: Path, path: Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """As `open` does, a file somewhere in `folder`, reached by no link and by no pipe or device itself.

    Raises OSError; of what is no plain file, too.
    """
    *above, name = path.relative_to(folder).parts
    at = _open_folder(os.fspath(folder))
    try:
        for part in above:
            inner = _open_folder(part, at)
            os.close(at)
            at = inner

        def opener(_: str, flags: int) -> int:
            return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=at)

        file = open(path, mode, opener=opener, **options)  # noqa: SIM115 - whoever asked for it closes it
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a plain file", str(path))
    return file


def _open_folder(name: str, at: int | None = None) -> int:
    if name == "..":
        raise OSError(errno.EINVAL, "Not a plain file", name)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)


def create_plain(folder: Path, name: str, mode: str = "wb", **options: Any) -> IO[Any]:
    """A new one directly in `folder`, in place of whatever has that name. Raises OSError."""
    (folder / name).unlink(missing_ok=True)
    return open_plain(folder, folder / name, mode.replace("w", "x"), **options)


def read_plain(folder: Path, name: str, *, most: int) -> bytes:
    """`most`: bytes. Raises OSError, also where it is larger."""
    with open_plain(folder, folder / name) as file:
        data: bytes = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(folder / name))
    return data


def copy_plain(folder: Path, path: Path, to: Path) -> None:
    """Raises OSError."""
    with open_plain(folder, path) as source, to.open("xb") as target:
        shutil.copyfileobj(source, target, 2**20)


def require_plain(folder: Path) -> None:
    """That in it and below it there are files and folders and nothing else. Raises OSError."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise OSError(errno.ENOTDIR, "Not a plain folder", str(folder))
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            kind = os.lstat(os.path.join(above, name)).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise OSError(errno.EINVAL, "Not a plain file", os.path.join(above, name))
