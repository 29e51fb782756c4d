"""Lists in pages, as OpenAI's clients turn them: `limit`, `after` (the last id seen), `has_more`. Knows no resource."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from webapp.core.errors import UserError

Order = Literal["asc", "desc"]


class Row(Protocol):
    id: UUID

    @property
    def created_at(self) -> datetime: ...


R = TypeVar("R", bound=Row)


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
