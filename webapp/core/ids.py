"""Ids of rows as they come in addresses, frames and sessions. Knows no rows."""

from __future__ import annotations

from uuid import UUID


def as_uuid(value: object) -> UUID | None:
    """None where it is no id: no row has it."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError:
        return None
