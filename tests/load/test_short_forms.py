"""The load benchmarks in short: a fraction of the sockets and of the time, on every run of the suite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.load import api, sockets
from tests.load.people import cookies
from tests.services import Site
from tests.webapp.api.live_clients import key_of

pytestmark = [pytest.mark.load, pytest.mark.timed]


@pytest.fixture(scope="module")
def clocks() -> Iterator[Site]:
    """A site whose replies are made of times, so that whoever reads them can tell how late they are."""
    site = sockets.clock_site()
    try:
        yield site.start()
    finally:
        site.stop()


def test_a_hundred_streams_are_watched_without_loss_and_none_is_a_second_behind(clocks: Site) -> None:
    watched = asyncio.run(sockets.watch_many(clocks, cookies(clocks, 100), 250))
    assert max(watched.lags) < 1000
    assert sockets.lost(clocks, watched.viewers) == 0


def test_a_socket_that_stops_reading_delays_nobody(clocks: Site) -> None:
    assert asyncio.run(sockets.behind_a_stalled_one(clocks, cookies(clocks, 11), 100)) < 1000


def test_an_idle_socket_costs_at_most_forty_kibibytes(clocks: Site) -> None:
    assert asyncio.run(sockets.idle_memory(clocks, cookies(clocks, 400))) < sockets.MEMORY_LIMIT_KIB


def test_streams_of_the_api_are_whole_however_many_there_are(clocks: Site) -> None:
    clocks.create_owner("streams@example.org")
    assert api.wrong_streams(clocks, key_of(clocks, "streams@example.org"), 60, 4) == 0
