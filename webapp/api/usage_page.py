"""What the page of usage shows: a picture by day, tables by model, person and key, and this month beside its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import QuerySet

from inference.models import UsageDay
from webapp.accounts.limit_rules import rules_of
from webapp.accounts.models import Membership
from webapp.api import usage_charts
from webapp.api.usage_access import keys_named, list_usage, people_named, summed, tokens_of_month
from webapp.api.usage_range import DAYS, Range, month_of

# Of people and keys; the CSV has them all.
_MOST_ROWS = 100


class Row(NamedTuple):
    name: str
    requests: int
    read: int
    written: int

    @property
    def tokens(self) -> int:
        return self.read + self.written


class Table(NamedTuple):
    rows: list[Row]
    others: int  # that it does not name


class Month(NamedTuple):
    """Tokens of this month."""

    used: int
    limit: int | None

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.used >= self.limit


def usage_context(membership: Membership, shown: Range, today: date) -> dict[str, Any]:
    days = list_usage(membership, shown.first, shown.last)
    by_day = _by_day(days, shown)
    total = Row("", *(sum(numbers) for numbers in zip(*(row[1:] for _day, row in by_day), strict=True)))
    context: dict[str, Any] = {
        "shown": shown,
        "total": total,
        "months": _this_month(membership, today),
        "ranges": DAYS,
        "this_month": month_of(today),
    }
    if shown.is_month:
        before, after = month_of(shown.first - timedelta(days=1)), month_of(shown.last + timedelta(days=1))
        context |= {"before": before, "after": after if after.first <= today else None}
    if total.tokens:
        context |= {
            "chart": usage_charts.by_day(
                [day for day, _row in by_day],
                [row.read for _day, row in by_day],
                [row.written for _day, row in by_day],
            ),
            "busiest": max(by_day, key=lambda found: found[1].tokens),
            "by_day": [found for found in reversed(by_day) if found[1].requests or found[1].tokens],
            "by_model": _table(days, "model_name", lambda names: {name: name for name in names}),
            "by_person": _table(days, "user_id", people_named) if membership.is_admin else None,
            "by_key": _table(days, "api_key_id", keys_named),
        }
    return context


def _by_day(days: QuerySet[UsageDay], shown: Range) -> list[tuple[date, Row]]:
    """Every day of it, those without usage too."""
    found = {row["day"]: _row("", row) for row in summed(days, "day")}
    return [(day, found.get(day, Row("", 0, 0, 0))) for day in shown.days]


def _table(days: QuerySet[UsageDay], by: str, named: Callable[[Iterable[Any]], dict[Any, str]]) -> Table:
    rows = list(summed(days, by)[: _MOST_ROWS + 1])
    others = summed(days, by).count() - _MOST_ROWS if len(rows) > _MOST_ROWS else 0
    names = named([row[by] for row in rows[:_MOST_ROWS]])
    return Table([_row(names[row[by]], row) for row in rows[:_MOST_ROWS]], others)


def _row(name: str, sums: dict[str, Any]) -> Row:
    return Row(name, sums["asked"], sums["read"], sums["written"])


def _this_month(membership: Membership, today: date) -> dict[str, Month]:
    """The workspace's, for those who may know, and the person's own where they have a limit or see nothing else."""
    rules = rules_of(membership.workspace_id)

    def limit(whose: UUID | None) -> int | None:
        return rules[whose].monthly_tokens if whose in rules else None

    whole, own = tokens_of_month(membership, today)
    months = {"workspace": Month(whole, limit(None))} if membership.is_admin else {}
    mine = Month(own, limit(membership.user_id))
    if not membership.is_admin or mine.limit is not None:
        months["person"] = mine
    return months
