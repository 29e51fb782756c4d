"""What a workspace, a person and a key may use: asked before every generation, whoever begins it, page or program.

Rules are LimitRule rows, and what the site allows each person, whatever workspaces allow; counters are in Redis; what
was really used comes back when a generation ends. Whether Redis answers decides nothing but whether we count: without
it everybody is let in (docs/decisions/0008-without-a-broker-nothing-is-limited.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import lru_cache
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.utils import timezone
from redis.exceptions import RedisError

from webapp.accounts import limit_words
from webapp.accounts.limit_rules import Limits, rules_of
from webapp.core.rate_limits import Meter, RateLimits, Verdict, connect

logger = logging.getLogger(__name__)

# A generation ends by its deadline; a stream that nobody ended lasts no longer than that and what recovery takes.
_BEYOND_DEADLINE = 60
# A stream this old whose generation nobody knows, or knows to have ended, is none: its end was not heard.
SURELY_BEGUN_SECONDS = 30
# After Redis did not answer, it is left alone for so long: not every message is to wait for it.
_LEFT_ALONE_SECONDS = 5.0
_BYTES_A_TOKEN = 4


class Books(NamedTuple):
    """What the layer that runs generations knows."""

    # Tokens used since a day (UTC) in a workspace: all of it, or one person's or key's.
    used_since: Callable[[date, UUID, UUID | None, UUID | None], int]
    # Of these slots those in which something is still to be said.
    still_open: Callable[[list[UUID]], set[UUID]]


class _Metered(NamedTuple):
    """Somebody with limits."""

    whose: str  # "workspace", "person", "key", "site"
    meter: Meter
    user_id: UUID | None = None
    api_key_id: UUID | None = None


_books: Books | None = None
_away_until = 0.0


def keep_books(books: Books) -> None:
    global _books
    _books = books


def admit(
    *, workspace_id: UUID, user_id: UUID | None, api_key_id: UUID | None, tokens: int, slot: UUID
) -> dict[str, str]:
    """Counts one request of about so many tokens, and a stream that is open until the generation (or, of several
    choices, the call) named `slot` ends.

    Answers the x-ratelimit-* headers of whichever rule is nearest to its end; empty where there are no rules.
    Raises UserError `rate_limit_exceeded`, `quota_exceeded` (429 with Retry-After), having counted nothing.

    Call it last in the transaction that makes the generation, or `withdraw` where none comes of it.
    """
    metered = _metered(workspace_id, user_id, api_key_id)
    if not metered or monotonic() < _away_until:
        return {}
    try:
        verdict = _ask(metered, workspace_id, tokens, slot)
    except RedisError as error:
        _leave_alone(error)
        return {}
    headers = limit_words.headers(verdict)
    if verdict.refusals:
        whose = [one.whose for one in metered]
        raise limit_words.refused(verdict.refusals, whose, tokens, headers)
    return headers


def withdraw(*, slot: UUID) -> None:
    """What was admitted did not happen: nothing of it stays counted. Safe where nothing was."""
    try:
        if monotonic() >= _away_until:
            _limiter(settings.REDIS_URL).withdraw(slot=slot)
    except RedisError as error:
        _leave_alone(error)


def applies(workspace_id: UUID, user_id: UUID | None, api_key_id: UUID | None) -> bool:
    """Whether anything that these use is counted."""
    return bool(_metered(workspace_id, user_id, api_key_id))


def settle(*, slot: UUID, tokens: int, is_last: bool, day: date) -> None:
    """So many tokens were really used in a slot, on that day; with the last of them its stream is closed, and what was
    charged too much or too little is corrected."""
    if monotonic() < _away_until:
        return
    try:
        limiter = _limiter(settings.REDIS_URL)
        (limiter.end if is_last else limiter.use)(slot=slot, tokens=tokens, month=_month(day))
    except RedisError as error:
        _leave_alone(error)


def estimate_tokens(texts: Iterable[str], answer: int) -> int:
    """About how many tokens a prompt of these texts and an answer of at most `answer` tokens take."""
    return sum(len(text.encode()) // _BYTES_A_TOKEN + 1 for text in texts) + answer


class Current(NamedTuple):
    """What was used of the limits by the minute."""

    requests: int
    tokens: int


def current_use(workspace_id: UUID, whose: Sequence[UUID | None]) -> dict[UUID | None, Current]:
    """What the workspace (None), its people or keys used in the last minute, where they have limits by the minute and
    so are counted. Empty while Redis is away."""
    try:
        uses = _limiter(settings.REDIS_URL).uses(_key(workspace_id, one) for one in whose)
    except RedisError as error:
        _leave_alone(error)
        return {}
    return {one: Current(*msgspec.structs.astuple(uses[_key(workspace_id, one)])) for one in whose}


def _metered(workspace_id: UUID, user_id: UUID | None, api_key_id: UUID | None) -> list[_Metered]:
    found = []
    rules = rules_of(workspace_id)
    if None in rules:
        found.append(_Metered("workspace", _meter(_key(workspace_id, None), rules[None])))
    if user_id in rules and user_id is not None:
        meter = _meter(_key(workspace_id, user_id), rules[user_id])
        found.append(_Metered("person", meter, user_id=user_id))
    if api_key_id in rules and api_key_id is not None:
        meter = _meter(_key(workspace_id, api_key_id), rules[api_key_id])
        found.append(_Metered("key", meter, api_key_id=api_key_id))
    if user_id is not None and (limits := site_limits()):
        found.append(_Metered("site", _meter(f"site:{user_id}", limits), user_id=user_id))
    return found


def site_limits() -> Limits:
    """What each person may use in all workspaces and with all keys together, whatever those allow."""
    return Limits(
        settings.LIMIT_REQUESTS_PER_MINUTE or None,
        settings.LIMIT_TOKENS_PER_MINUTE or None,
        settings.LIMIT_CONCURRENT_STREAMS or None,
    )


def _key(workspace_id: UUID, one: UUID | None) -> str:
    return f"{workspace_id}:{one or 'all'}"


def _meter(key: str, limits: Limits) -> Meter:
    return Meter(
        key=key,
        requests=limits.requests_per_minute or 0,
        tokens=limits.tokens_per_minute or 0,
        streams=limits.concurrent_streams or 0,
        monthly=limits.monthly_tokens or 0,
    )


def _ask(metered: list[_Metered], workspace_id: UUID, tokens: int, slot: UUID) -> Verdict:
    """One round trip; another where a month's sum has to be looked up first, or a stream's end was not heard."""
    limiter, today = _limiter(settings.REDIS_URL), timezone.now().date()
    meters = [one.meter for one in metered]
    looked_again = False
    while True:
        verdict = limiter.admit(meters=meters, tokens=tokens, slot=slot, lease=_lease(), month=_month(today))
        if verdict.unknown and _books is not None:
            for at in verdict.unknown:
                one = metered[at]
                used = _books.used_since(today.replace(day=1), workspace_id, one.user_id, one.api_key_id)
                meters[at] = msgspec.structs.replace(meters[at], used=used)
            continue
        full = [meters[refusal.meter].key for refusal in verdict.refusals if refusal.kind == "streams"]
        if not full or looked_again or not _end_what_has_ended(limiter, full):
            return verdict
        looked_again = True


def _end_what_has_ended(limiter: RateLimits, meters: list[str]) -> bool:
    """Closes streams whose generations have ended without our hearing of it. Whether there were any."""
    if _books is None:
        return False
    slots = {
        slot
        for meter in meters
        for slot in limiter.slots_of(meter, lease=_lease(), older_than=SURELY_BEGUN_SECONDS)
    }
    ended = slots - _books.still_open(list(slots)) if slots else slots
    for slot in ended:
        limiter.close(slot=slot)
    return bool(ended)


def _lease() -> int:
    return settings.INFERENCE_DEADLINE_SECONDS + _BEYOND_DEADLINE


def _month(day: date) -> str:
    return f"{day:%Y-%m}"


@lru_cache(maxsize=4)
def _limiter(url: str) -> RateLimits:
    return RateLimits(connect(url))


def _leave_alone(error: RedisError) -> None:
    global _away_until
    _away_until = monotonic() + _LEFT_ALONE_SECONDS
    logger.warning("limits are not counted for %g s, the broker is away: %s", _LEFT_ALONE_SECONDS, error)
