"""What people and programs are told about limits: which one, whose, and when it is free again. Knows no counter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webapp.core.errors import UserError
from webapp.core.rate_limits import Refusal, Remaining, Verdict

# Nobody knows when an answer that is being written will have been.
_STREAM_RETRY_SECONDS = 5


def headers(verdict: Verdict) -> dict[str, str]:
    """As OpenAI's API has them: of requests and of tokens, where there is such a limit."""
    found = {}
    for kind, left in (("requests", verdict.requests), ("tokens", verdict.tokens)):
        if left is not None:
            found[f"x-ratelimit-limit-{kind}"] = str(left.limit)
            found[f"x-ratelimit-remaining-{kind}"] = str(left.remaining)
            found[f"x-ratelimit-reset-{kind}"] = _duration(left)
    return found


def _duration(left: Remaining) -> str:
    """ "59.5s", "1m0.25s" """
    minutes, seconds = divmod(left.reset_ms / 1000, 60)
    return f"{minutes:g}m{seconds:g}s" if minutes else f"{seconds:g}s"


def refused(
    refusals: Sequence[Refusal], whose: Sequence[str], tokens: int, headers: Mapping[str, str]
) -> UserError:
    """The limit that keeps longest from what was asked. `whose` says of each meter whose it is."""
    found = max(refusals, key=lambda refusal: _wait(refusal, tokens) or math.inf)
    wait = _wait(found, tokens)
    return UserError(
        "quota_exceeded" if found.kind == "monthly" else "rate_limit_exceeded",
        _sentence(found, whose[found.meter], tokens, wait),
        status=429,
        retry_after=wait,
        headers=headers,
    )


def _wait(refusal: Refusal, tokens: int) -> int | None:
    """Seconds; None where waiting does not help."""
    match refusal.kind:
        case "streams":
            return _STREAM_RETRY_SECONDS
        case "monthly":
            if tokens > refusal.limit:
                return None
            begins = datetime.combine(_begins_anew(), time.min, UTC)
            return math.ceil((begins - timezone.now()).total_seconds())
    return math.ceil(refusal.wait_ms / 1000) if refusal.wait_ms >= 0 else None


def _begins_anew() -> date:
    return next_month(timezone.now().date())


def next_month(day: date) -> date:
    """The first day of the month that follows."""
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


def _sentence(refusal: Refusal, whose: str, tokens: int, wait: int | None) -> str:
    values = {
        "limit": _number(refusal.limit),
        "left": _number(max(refusal.limit - refusal.used, 0)),
        "asked": _number(tokens),
        "whose": {
            "workspace": _("for this workspace"),
            "person": _("for you"),
            "key": _("for this API key"),
            "site": _("for each person on this site"),
        }[whose],
        "wait": ngettext("%(n)s second", "%(n)s seconds", wait or 0) % {"n": wait},
        "day": date_format(_begins_anew()),
    }
    match refusal.kind:
        case "requests":
            said = _("The limit %(whose)s is %(limit)s requests a minute. Try again in %(wait)s.")
        case "streams":
            said = _(
                "The limit %(whose)s is %(limit)s answers at once, and as many are being written. Wait for one to "
                "finish, or stop one."
            )
        case "monthly":
            said = _(
                "The limit %(whose)s is %(limit)s tokens a month. %(left)s are left, and this may take %(asked)s. The "
                "count begins anew on %(day)s; owners and admins of the workspace can raise the limit."
            )
        case _ if wait is None:
            said = _(
                "The limit %(whose)s is %(limit)s tokens a minute, and this alone may take %(asked)s. Send less, or "
                "ask for a shorter answer."
            )
        case _:
            said = _(
                "The limit %(whose)s is %(limit)s tokens a minute. %(left)s are left, and this may take %(asked)s. Try "
                "again in %(wait)s."
            )
    return said % values


def _number(value: int) -> str:
    return number_format(value, force_grouping=True)
