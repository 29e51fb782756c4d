"""/v1/usage: what a workspace used, in buckets of a day, as OpenAI's API tells its organizations theirs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from ninja import Query, Router, Schema

from inference.models import NOBODY
from webapp.accounts.models import Membership
from webapp.api.auth import Needs
from webapp.api.callers import caller
from webapp.api.errors import Unsupported
from webapp.api.usage_access import list_usage, summed
from webapp.core.errors import UserError

router = Router(auth=Needs("admin"))
_USUAL_DAYS, _MOST_DAYS = 7, 180
_LAST_SECOND = 253_370_764_800  # the year 9999 begins
_COLUMNS = {"model": "model_name", "user_id": "user_id", "api_key_id": "api_key_id", "source": "source"}
_PARAMETERS = {"start_time", "end_time", "bucket_width", "group_by", "limit", "page"}
GroupBy = Literal["model", "user_id", "api_key_id", "source"]
_BY_NOTHING: Any = Query([], max_length=len(_COLUMNS))


class Result(Schema):
    """Sums of what has the same values of all that was grouped by; what was not grouped by is null, as are the person
    of what is nobody's and the key of what was asked on pages."""

    object: Literal["usage.result"] = "usage.result"
    input_tokens: int
    output_tokens: int
    num_model_requests: int
    model: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    source: str | None = None


class Bucket(Schema):
    """A day, in UTC."""

    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[Result]


class UsagePage(Schema):
    object: Literal["page"] = "page"
    data: list[Bucket]
    has_more: bool
    next_page: str | None  # as `page` of the next request


@router.get("", response=UsagePage, summary="List usage")
def list_usage_buckets(
    request: HttpRequest,
    start_time: int | None = Query(None, ge=0, le=_LAST_SECOND),
    end_time: int | None = Query(None, ge=0, le=_LAST_SECOND),
    bucket_width: Literal["1d"] = "1d",
    group_by: list[GroupBy] = _BY_NOTHING,
    limit: int = Query(_USUAL_DAYS, ge=1, le=_MOST_DAYS),
    page: str | None = None,
) -> Any:
    """Every day from `start_time` (six days ago) to `end_time` (now), the first `limit` of them. Tokens and requests
    count when their answers have ended."""
    if unknown := set(request.GET) - _PARAMETERS:
        raise Unsupported(min(unknown))
    first, last = _days(start_time, end_time)
    begin = first if page is None else _page(page, first, last)
    end = min(begin + timedelta(days=limit - 1), last)
    return UsagePage(
        data=_buckets(caller(request).membership, begin, end, group_by),
        has_more=end < last,
        next_page=(end + timedelta(days=1)).isoformat() if end < last else None,
    )


def _days(start_time: int | None, end_time: int | None) -> tuple[date, date]:
    """The first and the last day asked for; a day that is only begun is whole."""
    last = timezone.now().date() if end_time is None else _day(max(end_time - 1, 0))
    first = last - timedelta(days=_USUAL_DAYS - 1) if start_time is None else _day(start_time)
    if first > last:
        raise UserError("invalid_value", _("“end_time” has to be later than “start_time”."), param="end_time")
    return first, last


def _day(second: int) -> date:
    return datetime.fromtimestamp(second, UTC).date()


def _page(page: str, first: date, last: date) -> date:
    try:
        begin = date.fromisoformat(page)
    except ValueError:
        begin = date.min
    if not first <= begin <= last:
        message = _("“page” has to be what “next_page” said, for the same “start_time” and “end_time”.")
        raise UserError("invalid_value", message, param="page")
    return begin


def _buckets(mine: Membership, begin: date, end: date, group_by: Sequence[GroupBy]) -> list[Bucket]:
    columns = {_COLUMNS[name] for name in group_by}
    by_day: dict[date, list[Result]] = {}
    for row in summed(list_usage(mine, begin, end), "day", *sorted(columns)):
        by_day.setdefault(row["day"], []).append(_result(row, columns))
    days = [begin + timedelta(days=n) for n in range((end - begin).days + 1)]
    return [
        Bucket(start_time=_second(day), end_time=_second(day) + 86_400, results=by_day.get(day, []))
        for day in days
    ]


def _result(row: dict[str, Any], columns: set[str]) -> Result:
    sums: dict[str, Any] = {
        "input_tokens": row["read"],
        "output_tokens": row["written"],
        "num_model_requests": row["asked"],
    }
    for name, column in _COLUMNS.items():
        if column in columns and row[column] != NOBODY:
            sums[name] = str(row[column])
    return Result(**sums)


def _second(day: date) -> int:
    return int(datetime.combine(day, time.min, UTC).timestamp())
