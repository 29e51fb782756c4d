"""Counting against limits in a real Valkey: what fits, what does not and until when, at every edge of the clock."""

from __future__ import annotations

import math
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.conf import settings

from webapp.core.rate_limits import Meter, RateLimits, Verdict, connect

NOVEMBER, DECEMBER = "2026-11", "2026-12"
LEASE = 600


@pytest.fixture
def limits() -> RateLimits:
    return RateLimits(connect(settings.REDIS_URL))


def ask(
    limits: RateLimits, *meters: Meter, tokens: int = 1, slot: UUID | None = None, **more: Any
) -> Verdict:
    fields = {"lease": LEASE, "month": NOVEMBER, "now": 1000.0, **more}
    return limits.admit(meters=meters, tokens=tokens, slot=slot or uuid.uuid4(), **fields)


def is_counted(verdict: Verdict) -> bool:
    return not verdict.refusals and not verdict.unknown


def test_a_request_that_one_rule_refuses_counts_with_none(limits: RateLimits) -> None:
    wide, narrow = Meter("wide", requests=10, tokens=1000, streams=10), Meter("narrow", tokens=100)
    assert is_counted(ask(limits, wide, narrow, tokens=60))
    refused = ask(limits, wide, narrow, tokens=60)
    assert [(refusal.meter, refusal.kind) for refusal in refused.refusals] == [(1, "tokens")]
    after = ask(limits, wide, tokens=0)
    assert after.requests is not None
    assert after.tokens is not None
    assert (after.requests.remaining, after.tokens.remaining) == (8, 940)


def test_what_is_left_is_said_of_the_rule_that_is_nearest_to_its_end(limits: RateLimits) -> None:
    verdict = ask(limits, Meter("a", requests=10), Meter("b", requests=4), now=1000.25)
    assert verdict.requests is not None
    assert (verdict.requests.limit, verdict.requests.remaining) == (4, 3)
    assert verdict.requests.reset_ms == 60_750  # the second in which it was counted has to be a minute old
    assert verdict.tokens is None


@pytest.mark.parametrize("seed", range(4))
def test_no_sixty_seconds_hold_more_than_the_limit_and_the_wait_that_is_said_is_true(
    seed: int, limits: RateLimits
) -> None:
    chance, meter = random.Random(seed), Meter("m", requests=7, tokens=100)
    counted: list[tuple[float, int]] = []
    now = 1_800_000_000 + chance.random()
    for _ in range(120):
        tokens = chance.choice((0, 1, 20, 60))
        verdict = ask(limits, meter, tokens=tokens, now=now)
        if verdict.refusals:
            wait = max(refusal.wait_ms for refusal in verdict.refusals) / 1000
            assert 0 < wait <= 61
            assert ask(limits, meter, tokens=tokens, now=now + wait - 0.01).refusals, "it says too long"
            now += wait
            assert is_counted(ask(limits, meter, tokens=tokens, now=now)), "it says too short"
        counted.append((now, tokens))
        within = [spent for at, spent in counted if at > now - 60]
        assert len(within) <= 7
        assert sum(within) <= 100
        now += chance.choice((0.001, 0.4, 1, 3, 30, 200)) * chance.random()


def test_many_at_once_never_exceed_a_limit(limits: RateLimits) -> None:
    meters = [Meter("a", requests=40), Meter("b", streams=25), Meter("c", tokens=10_000)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda _: ask(limits, *meters, now=0), range(200)))
    assert sum(is_counted(verdict) for verdict in verdicts) == 25


def test_what_no_minute_has_room_for_never_fits(limits: RateLimits) -> None:
    refused = ask(limits, Meter("m", tokens=100), tokens=101)
    assert [refusal.wait_ms for refusal in refused.refusals] == [-1]


def test_an_estimate_that_was_too_high_makes_room_when_it_is_known_what_was_used(limits: RateLimits) -> None:
    meter, slot = Meter("m", tokens=100), uuid.uuid4()
    ask(limits, meter, tokens=100, slot=slot)
    assert ask(limits, meter, now=1030.0).refusals
    limits.end(slot=slot, tokens=10, month=NOVEMBER, now=1030.0)
    assert ask(limits, meter, tokens=91, now=1030.0).refusals
    assert is_counted(ask(limits, meter, tokens=90, now=1030.0))


def test_what_was_used_beyond_the_estimate_was_used_when_it_ended(limits: RateLimits) -> None:
    meter, slot = Meter("m", tokens=100), uuid.uuid4()
    ask(limits, meter, tokens=40, slot=slot)
    limits.end(slot=slot, tokens=150, month=NOVEMBER, now=1030.0)
    refused = ask(limits, meter, now=1030.0)
    assert (refused.refusals[0].used, refused.refusals[0].wait_ms) == (150, 61_000)
    assert ask(limits, meter, now=1090.9).refusals
    assert is_counted(ask(limits, meter, tokens=100, now=1091.0))


def test_what_was_counted_more_than_a_minute_ago_is_not_given_back_twice(limits: RateLimits) -> None:
    meter, slot = Meter("m", tokens=100), uuid.uuid4()
    ask(limits, meter, tokens=90, slot=slot)
    ask(limits, meter, tokens=30, now=1061.0)
    limits.end(slot=slot, tokens=0, month=NOVEMBER, now=1062.0)
    verdict = ask(limits, meter, tokens=0, now=1062.0)
    assert verdict.tokens is not None
    assert verdict.tokens.remaining == 70


def test_a_stream_is_open_until_it_ends_or_its_lease_runs_out(limits: RateLimits) -> None:
    meter, first, second = Meter("m", streams=2), uuid.uuid4(), uuid.uuid4()
    ask(limits, meter, slot=first)
    ask(limits, meter, slot=second, now=1001.0)
    refused = ask(limits, meter, now=1002.0)
    assert [(r.kind, r.limit, r.used) for r in refused.refusals] == [("streams", 2, 2)]
    limits.end(slot=first, tokens=0, month=NOVEMBER, now=1002.0)
    limits.end(slot=first, tokens=0, month=NOVEMBER, now=1002.0)
    assert is_counted(ask(limits, meter, now=1002.0))
    assert ask(limits, meter, now=1000.9 + LEASE).refusals
    assert is_counted(ask(limits, meter, now=1001.0 + LEASE))


def test_a_call_of_several_choices_is_one_stream_until_the_last_has_ended(limits: RateLimits) -> None:
    meter, call = Meter("m", streams=1, tokens=100, monthly=1000, used=0), uuid.uuid4()
    ask(limits, meter, tokens=50, slot=call)
    limits.use(slot=call, tokens=10, month=NOVEMBER, now=1001.0)
    assert ask(limits, meter, now=1001.0).refusals
    limits.end(slot=call, tokens=20, month=NOVEMBER, now=1002.0)
    verdict = ask(limits, meter, tokens=970, now=1100.0)
    assert [refusal.kind for refusal in verdict.refusals] == ["tokens"]
    verdict = ask(limits, Meter("m", monthly=1000), tokens=970, now=1002.0)
    assert is_counted(verdict)


def test_a_slot_that_is_asked_for_twice_is_counted_once(limits: RateLimits) -> None:
    meter, slot = Meter("m", requests=2, tokens=10, streams=1), uuid.uuid4()
    first, again = (ask(limits, meter, tokens=8, slot=slot) for _ in range(2))
    assert is_counted(again)
    assert first == again


def test_what_did_not_happen_is_not_counted(limits: RateLimits) -> None:
    meter, slot = Meter("m", requests=1, tokens=10, streams=1, monthly=10, used=0), uuid.uuid4()
    assert is_counted(ask(limits, meter, tokens=10, slot=slot))
    assert len(ask(limits, meter, tokens=10).refusals) == 4
    limits.withdraw(slot=slot, now=1005.0)
    assert is_counted(ask(limits, meter, tokens=10, now=1005.0))


def test_a_months_sum_is_looked_up_once_and_then_kept(limits: RateLimits) -> None:
    meter, slot = Meter("m", monthly=1000), uuid.uuid4()
    assert ask(limits, meter, tokens=100).unknown == [0]
    known = msgspec.structs.replace(meter, used=700)
    assert is_counted(ask(limits, known, tokens=200, slot=slot))
    # What is being written counts with what it may become, and when it has ended with what it was.
    assert [r.used for r in ask(limits, meter, tokens=200).refusals] == [900]
    limits.end(slot=slot, tokens=20, month=NOVEMBER, now=1000.0)
    assert [r.used for r in ask(limits, meter, tokens=300).refusals] == [720]
    assert is_counted(ask(limits, meter, tokens=280))


def test_a_month_that_begins_is_looked_up_anew(limits: RateLimits) -> None:
    meter = Meter("m", monthly=100)
    assert ask(limits, msgspec.structs.replace(meter, used=100)).refusals
    assert ask(limits, meter, month=DECEMBER).unknown == [0]
    assert is_counted(ask(limits, msgspec.structs.replace(meter, used=0), month=DECEMBER))


def test_what_ends_in_the_next_month_is_of_that_month_as_in_the_books(limits: RateLimits) -> None:
    meter, slot = Meter("m", monthly=100, used=0), uuid.uuid4()
    assert is_counted(ask(limits, meter, tokens=90, slot=slot))
    assert is_counted(ask(limits, meter, month=DECEMBER))
    limits.end(slot=slot, tokens=80, month=DECEMBER, now=1000.0)
    assert [r.used for r in ask(limits, meter, tokens=90, month=DECEMBER).refusals] == [81]
    assert is_counted(ask(limits, meter, tokens=99))


def test_a_months_sum_is_forgotten_after_a_minute(limits: RateLimits) -> None:
    ask(limits, Meter("m", monthly=100, used=1))
    left = connect(settings.REDIS_URL).ttl(f"fw:limit:m:m:{NOVEMBER}")
    assert 0 < left <= 60


def test_a_clock_that_is_set_back_lets_nobody_use_more(limits: RateLimits) -> None:
    meter = Meter("m", requests=2)
    assert is_counted(ask(limits, meter, now=1000.0))
    assert is_counted(ask(limits, meter, now=990.0))
    refused = ask(limits, meter, now=995.0)
    assert math.ceil(refused.refusals[0].wait_ms / 1000) == 56
    assert is_counted(ask(limits, meter, now=1051.0))


def test_nothing_that_was_counted_stays_for_ever(limits: RateLimits) -> None:
    ask(limits, Meter("m", requests=5, tokens=5, streams=5, monthly=5, used=0), now=0)
    connection: Any = connect(settings.REDIS_URL)
    keys = connection.keys("fw:limit:*")
    assert len(keys) == 6
    assert all(0 < connection.ttl(key) <= LEASE + 60 for key in keys)


def test_current_use_is_of_the_last_minute(limits: RateLimits) -> None:
    ask(limits, Meter("m", requests=5, tokens=50), tokens=7, now=0)
    uses = limits.uses(["m", "other"])
    assert (uses["m"].requests, uses["m"].tokens) == (1, 7)
    assert (uses["other"].requests, uses["other"].tokens) == (0, 0)
