"""Checkpoints on disk: whole or not there. Knows nothing of what is in them.

Each is a folder of files, written aside under another name, flushed to the disk, compared with what was meant to be
written, listed with their SHA-256 in manifest.json, and only then renamed. Nothing in it is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

# What is in a file: as a whole, or piece by piece.
Content = bytes | Iterable[bytes | memoryview]

# So much at a time is put on the disk: who waits for it sees that it gets on, and no other program waits for all of it.
_AT_ONCE = 2**26  # bytes
_NAME = "step-{:08d}"
_ASIDE = ".aside-"
_OLD = ".aside-old-"


class _Manifest(msgspec.Struct):
    files: dict[str, str]  # SHA-256 by name


def _nothing() -> None:
    pass


def write_folder(folder: Path, files: Mapping[str, Content], beat: Callable[[], None] = _nothing) -> None:
    """All of them or nothing, also where the machine stops in between. `beat` is called as it gets on.

    Raises OSError.
    """
    aside, old = folder.with_name(_ASIDE + folder.name), folder.with_name(_OLD + folder.name)
    shutil.rmtree(aside, ignore_errors=True)
    _put_back(old)
    try:
        aside.mkdir(parents=True)
        manifest = _Manifest({name: _write(aside / name, content, beat) for name, content in files.items()})
        _write(aside / "manifest.json", msgspec.json.encode(manifest))
        _sync(aside)
        if not is_whole(aside):
            raise OSError(f"what was written to {folder.name} is not what is read there")
        # A folder of this name is replaced: the same step, saved again. One of the two is always whole.
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        _put_back(old)
        raise


def _put_back(old: Path) -> None:
    """What was to be replaced, where whoever did it was ended before the other was in its place."""
    folder = old.with_name(old.name.removeprefix(_OLD))
    if not folder.exists():
        with contextlib.suppress(FileNotFoundError):  # there is none, or another process has put it back
            old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, content: Content, beat: Callable[[], None] = _nothing) -> str:
    """Its SHA-256 as it was meant to be."""
    digest, waiting = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in (content,) if isinstance(content, bytes) else content:
            for start in range(0, len(piece), _AT_ONCE):
                part = piece[start : start + _AT_ONCE]
                digest.update(part)
                file.write(part)
                waiting += len(part)
                if waiting >= _AT_ONCE:
                    file.flush()
                    os.fsync(file.fileno())
                    waiting = 0
                    beat()
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def write_file(file: Path, data: bytes) -> None:
    """All of it or nothing, also where the machine stops in between. Raises OSError."""
    aside = file.with_name(_ASIDE + file.name)
    with aside.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    aside.replace(file)
    _sync(file.parent)


def is_whole(folder: Path) -> bool:
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
        for name, digest in manifest.files.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return False
    except (OSError, msgspec.DecodeError):
        return False
    return True


class Checkpoints:
    """Those of one job, by step."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def path(self, step: int) -> Path:
        return self._folder / _NAME.format(step)

    def write(
        self, step: int, files: Mapping[str, Content], best: int, beat: Callable[[], None] = _nothing
    ) -> Path:
        """The oldest go, but not the best step's. `beat` is called as it gets on."""
        folder = self.path(step)
        write_folder(folder, files, beat)
        for old in list(self._all())[self._keep :]:
            if old not in (folder, self.path(best)):
                shutil.rmtree(old, ignore_errors=True)
        return folder

    def last(self) -> Path | None:
        """The newest that is whole; what is left of one that was being written is removed."""
        for old in list(self._folder.glob(f"{_OLD}*")):
            _put_back(old)
        for half in list(self._folder.glob(f"{_ASIDE}*")):
            shutil.rmtree(half, ignore_errors=True)
        return next((folder for folder in self._all() if is_whole(folder)), None)

    def _all(self) -> Iterator[Path]:
        """The newest first."""
        return iter(sorted(self._folder.glob("step-*"), reverse=True))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
