"""Which days a page of usage is about: so many up to today, or a month. Knows nothing of what was used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

from webapp.accounts.limit_words import next_month

DAYS = (7, 30, 90)
_MONTH = re.compile(r"(\d{4})-(\d{2})")


@dataclass(frozen=True)
class Range:
    name: str  # as an address says it: "30", "2026-11"
    first: date
    last: date

    @property
    def is_month(self) -> bool:
        return not self.name.isdigit()

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]


def asked_range(name: str, today: date) -> Range:
    """30 days where it is none that there is."""
    found = _MONTH.fullmatch(name)
    if found and 1970 <= int(found[1]) < 9999 and 1 <= int(found[2]) <= 12:
        return month_of(date(int(found[1]), int(found[2]), 1))
    days = int(name) if name in map(str, DAYS) else 30
    return Range(str(days), today - timedelta(days=days - 1), today)


def month_of(day: date) -> Range:
    first = day.replace(day=1)
    return Range(f"{first:%Y-%m}", first, next_month(first) - timedelta(days=1))
