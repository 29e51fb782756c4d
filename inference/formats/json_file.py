"""Reads the JSON files of a model folder, which are not trusted. Knows nothing of what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inference.formats.errors import ModelFileError

_MAX_BYTES = 256 * 2**20  # the largest tokenizer.json known to us is 35 MB


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file. Raises ModelFileError where it is missing, too large, or not an object."""
    value = json_object(path, read_text(path))
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """The object in the file, or an empty one where there is no such file."""
    return read_json(path) if path.exists() else {}


def read_text(path: Path, max_bytes: int = _MAX_BYTES) -> str:
    try:
        if path.stat().st_size > max_bytes:
            raise ModelFileError(path, f"is larger than {max_bytes} bytes.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ModelFileError(path, "is not UTF-8 text.") from error


def json_object(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(path, f"is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(path, "is not a JSON object.")
    return value
