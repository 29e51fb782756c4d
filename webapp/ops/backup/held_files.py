"""Files that a backup is going to copy, held by hard links: whoever deletes them meanwhile deletes only a name.

Where there are no hard links nothing is held, and files are taken from where they lie.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

# Of files that are not whole yet.
_ASIDE = ".incoming-"
_ARRIVING = "incoming"


class HeldFiles:
    """`hold` before the database's snapshot is taken, and again after it; `files` are those of either time."""

    def __init__(self, home: Path, folder: Path) -> None:
        self._home, self._folder = home, folder

    def __enter__(self) -> HeldFiles:
        shutil.rmtree(self._folder, ignore_errors=True)  # of one that was killed
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def hold(self, path: Path) -> None:
        """What is at `path`, relative to the home, as far as it is there."""
        for file in _below(self._home / path):
            link = self._folder / file.relative_to(self._home)
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                try:
                    if not file.is_symlink():
                        os.link(file, link)
                except OSError as error:
                    if isinstance(error, FileExistsError | FileNotFoundError):
                        raise
                    return  # of another disk, or of a kind that knows no links

    def files(self, path: Path) -> dict[Path, Path]:
        """All files at `path`: where each is to be read, by its place relative to the home."""
        held = {file.relative_to(self._folder): file for file in _below(self._folder / path)}
        there = {file.relative_to(self._home): file for file in _below(self._home / path)}
        return there | held


def _below(path: Path) -> Iterator[Path]:
    """The file, or the files of the folder; of links in it, those that lead to files."""
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != _ARRIVING and not name.startswith(_ASIDE)]
        for name in names:
            file = Path(folder, name)
            if file.is_file():
                yield file
