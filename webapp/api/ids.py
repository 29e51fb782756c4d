"""Ids as programs write them: what it is, then 32 hexadecimal digits, as in "file-0f8c...". Knows no rows."""

from __future__ import annotations

import re
from uuid import UUID

_HEX = re.compile(r"[0-9a-f]{32}")


def public_id(kind: str, key: UUID) -> str:
    """`kind`: "file", "ftjob", "dataset", ..."""
    return f"{kind}-{key.hex}"


def key_of(kind: str, text: str) -> UUID | None:
    """None where it is no such id: no row has it."""
    prefix, _dash, digits = text.rpartition("-")
    return UUID(digits) if prefix == kind and _HEX.fullmatch(digits) else None
