"""Lists in pages, as OpenAI's clients turn them: `limit`, `after` (the last id seen), `has_more`; and those rows of
one that have some metadata. Knows no resource."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Func, Model, Q, QuerySet, TextField, Value
from django.db.models.functions import Cast
from django.db.models.lookups import Exact
from django.db.models.sql.compiler import SQLCompiler
from django.http import QueryDict
from django.utils.translation import gettext as _

from webapp.core.errors import UserError

Order = Literal["asc", "desc"]
_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
# What `with_metadata` reads, for a route's OpenAPI.
BY_METADATA = {
    "parameters": [
        {
            "in": "query",
            "name": "metadata",
            "style": "deepObject",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "description": "Only those whose metadata has these values: metadata[k]=v.",
        }
    ]
}


class Row(Protocol):
    id: UUID

    @property
    def created_at(self) -> datetime: ...


R = TypeVar("R", bound=Row)
M = TypeVar("M", bound=Model)


def page_by_time(
    rows: Sequence[QuerySet[Any]], *, after: Row | None, limit: int, order: Order
) -> tuple[list[Any], bool]:
    """Rows of one or several tables by when they were made, and whether there are more after them."""
    found: list[Any] = []
    for some in rows:
        if after is not None:
            way = "gt" if order == "asc" else "lt"
            some = some.filter(
                Q(**{f"created_at__{way}": after.created_at})
                | Q(created_at=after.created_at, **{f"id__{way}": after.id})
            )
        names = ("created_at", "id") if order == "asc" else ("-created_at", "-id")
        found += some.order_by(*names)[: limit + 1]
    found.sort(key=lambda row: (row.created_at, row.id), reverse=order == "desc")
    return found[:limit], len(found) > limit


def place_of(text: str | None, find: Callable[[str], R]) -> R | None:
    """The row that `after` names. Raises UserError `invalid_value` where there is none, or no more."""
    if text is None:
        return None
    try:
        return find(text)
    except UserError as error:
        raise no_such_place(text) from error


def no_such_place(text: str) -> UserError:
    return UserError(
        "invalid_value",
        _("“after” has to be the id of something in this list, and “%(id)s” is not.") % {"id": text[:100]},
        param="after",
    )


def with_metadata(rows: QuerySet[M], asked: QueryDict) -> QuerySet[M]:
    """Those whose metadata has what a query asks for. Raises UserError `invalid_value` for a filter that is none."""
    for name, value in asked.items():
        if name == "metadata" and value == "null":
            rows = rows.filter(metadata={})
        elif found := _METADATA.fullmatch(name):
            rows = rows.filter(Exact(_TextUnder(found[1]), value))
        elif name.startswith("metadata"):
            raise UserError(
                "invalid_value", _("Filter by metadata as “metadata[key]=value”."), param="metadata"
            )
    return rows


class _TextUnder(Func):
    """What `metadata` has under a key. Not Django's own: to that one a key of digits is a place in a list."""

    output_field = TextField()

    def __init__(self, key: str) -> None:
        super().__init__(F("metadata"), Cast(Value(key), TextField()))

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **more: Any) -> Any:
        return self.as_sql(compiler, connection, template="(%(expressions)s)", arg_joiner=" ->> ", **more)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **more: Any) -> Any:
        # No path: in one, what a quote or a backslash in a key means depends on SQLite's version.
        select = "(SELECT value FROM json_each(%(expressions)s)"
        return self.as_sql(compiler, connection, template=select, arg_joiner=") WHERE key = ", **more)
