"""Usage as CSV: a line for each day, person, key, model and source, as they are read from the database.

A spreadsheet takes a cell that begins with =, +, - or @ for a formula, and people choose their own names: such a cell
gets an apostrophe in front, which spreadsheets do not show.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import QuerySet

from inference.models import UsageDay
from webapp.api.usage_access import keys_named, people_named

COLUMNS = ("day", "person", "key", "model", "source", "requests", "input_tokens", "output_tokens")
_PIECE = 1000
# The full-width ones, too: with some languages spreadsheets take them for the same.
_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r")


async def csv_lines(days: QuerySet[UsageDay]) -> AsyncIterator[str]:
    """In pieces of many lines; read on and on from where the last one ended, so that no piece waits for the rest."""
    yield _lines([COLUMNS])
    after: tuple[Any, int] | None = None
    while piece := await sync_to_async(_rows_after)(days, after):
        after = piece[-1].day, piece[-1].pk
        yield await sync_to_async(_piece)(piece)


def _rows_after(days: QuerySet[UsageDay], after: tuple[Any, int] | None) -> list[UsageDay]:
    ordered = days.order_by("day", "pk")
    if after is not None:
        day, key = after
        ordered = ordered.filter(day__gte=day).exclude(day=day, pk__lte=key)
    return list(ordered[:_PIECE])


def _piece(rows: list[UsageDay]) -> str:
    people = people_named({row.user_id for row in rows})
    keys = keys_named({row.api_key_id for row in rows})
    return _lines(
        [
            row.day.isoformat(),
            _text(people[row.user_id]),
            _text(keys[row.api_key_id]),
            _text(row.model_name),
            row.source,
            row.requests,
            row.prompt_tokens,
            row.completion_tokens,
        ]
        for row in rows
    )


def _lines(rows: Any) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()


def _text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULAS) else cell
