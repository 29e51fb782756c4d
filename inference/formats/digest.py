"""SHA-256 of what a model is made of, so that "exactly this model" has a name. Knows nothing of what is in it.

Of a GGUF it is the digest of the file. Of a folder it is the digest of the sorted list of its files' names and
digests, so that it does not depend on where the folder lies.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from inference.formats.errors import ModelFileError


def content_digest(files: list[Path], cache: Path | None = None) -> str:
    """Lower-case hex. `cache` is a folder that remembers digests by path, size and modification time."""
    if len(files) == 1:
        return _file_digest(files[0], cache)
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        whole.update(f"{len(file.name)}:{file.name}:{_file_digest(file, cache)}\n".encode())
    return whole.hexdigest()


def adapted_digest(base: str, adapter: str) -> str:
    """What a base model answers as with an adapter: SHA-256 over both digests, each after its length."""
    return hashlib.sha256(f"{len(base)}:{base}{len(adapter)}:{adapter}".encode()).hexdigest()


def _file_digest(path: Path, cache: Path | None) -> str:
    try:
        path = path.resolve(strict=True)
        facts = path.stat()
        stamp: list[str | int] = [str(path), facts.st_size, facts.st_mtime_ns]
        entry = cache / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json" if cache else None
        if entry is not None and (known := _remembered(entry, stamp)):
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}.") from error
    if entry is not None:
        _remember(entry, stamp, digest)
    return digest


def _remembered(entry: Path, stamp: list[str | int]) -> str | None:
    try:
        stored = json.loads(entry.read_text(encoding="utf-8"))
        if stored["stamp"] == stamp and len(stored["sha256"]) == 64:
            return str(stored["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _remember(entry: Path, stamp: list[str | int], digest: str) -> None:
    # A cache that cannot be written costs time, never an answer.
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        aside = entry.with_name(f"{entry.name}.{os.getpid()}")
        aside.write_text(json.dumps({"stamp": stamp, "sha256": digest}), encoding="utf-8")
        aside.replace(entry)
    except OSError:
        return
