"""What a second process adds: of inference workers with the real model, and of web processes with a scripted one.

Each process has a core of its own. Where there are only two cores, whoever asks, the broker and the database share
them; so web processes are compared in two ways that leave those out: by what they pass on in a second of their own
processor time, and by the streams that they finish in a second of the clock where each gets the same share of a core.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.demo_model import DEMO
from tests.load.api import asking
from tests.load.bench import Row
from tests.load.core_share import NoShares, core_share
from tests.load.raw_http import RawHttp
from tests.load.sockets import clock_site
from tests.load.streaming import PROMPT
from tests.services import REAL, Service, Site, wait_until
from tests.webapp.api.live_clients import key_of
from webapp.ops import broker, processes

CHAT = "/v1/chat/completions"
_PLACES = 16  # of each worker
_SHARE = 0.2  # of a core for each web process: what two of them can ask for leaves most of the machine to the others


# --- inference workers -------------------------------------------------------------------------------------------


async def _tokens_a_second(site: Site, key: str, at_once: int, seconds: float) -> float:
    """Of so many programs, each of which asks again as soon as it is answered; what was asked in time counts whole."""
    tokens = 0

    async def ask(number: int) -> None:
        nonlocal tokens
        connection = await RawHttp(site.port, key).open()
        try:
            while time.monotonic() < end:
                body = asking(f"{number}: {PROMPT}", max_tokens=64) | {"model": DEMO.name}
                answer = await connection.post(CHAT, body)
                assert answer.status == 200, answer
                tokens += answer.json()["usage"]["completion_tokens"]
        finally:
            connection.close()

    began = time.monotonic()
    end = began + seconds
    await asyncio.gather(*(ask(number) for number in range(at_once)))
    return tokens / (time.monotonic() - began)


def _pin(service: Service, core: int) -> None:
    for process in [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]:
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {core})


def workers(seconds: float = 20) -> Iterator[Row]:
    """Tokens a second of two workers against one, each on one core, with more programs than both have places for."""
    cores = sorted(os.sched_getaffinity(0))
    environment = {
        "OMP_NUM_THREADS": "1",
        "INFERENCE_MAX_RUNNING": str(_PLACES),
        "INFERENCE_MAX_QUEUED": "1000",
    }
    site = Site(engine=REAL, environment=environment)
    try:
        site.start(model=REAL)
        _pin(site.inference[0], cores[0])
        site.create_owner()
        key = key_of(site)
        crowd = 2 * _PLACES + 4
        asyncio.run(_tokens_a_second(site, key, crowd, 5))  # warms up
        one = asyncio.run(_tokens_a_second(site, key, crowd, seconds))
        site.start_inference()
        wait_until(lambda: site.workers_ready() == 2, "the second worker", 60)
        _pin(site.inference[1], cores[-1])
        asyncio.run(_tokens_a_second(site, key, crowd, 5))
        two = asyncio.run(_tokens_a_second(site, key, crowd, seconds))
        yield Row.at_least("ops.workers.2", two, one, "tokens/s", 1.7)
    finally:
        site.stop()


# --- web processes -----------------------------------------------------------------------------------------------


@contextmanager
def second_web(site: Site) -> Iterator[Service]:
    port = broker.free_port()
    web = Service(
        "web2",
        processes.web(host="127.0.0.1", port=port).command,
        {**site.environment, "PORT": str(port)},
        site.logs / "web2.log",
    )
    web.start()
    try:
        wait_until(lambda: not broker.is_free(port), "the second web process to listen", 30)
        yield web
    finally:
        web.stop()


async def _read_streams(ports: list[int], key: str, count: int, tokens: int) -> int:
    """So many streams, shared out over these ports; the bytes of all their bodies."""

    async def read(port: int) -> int:
        connection = await RawHttp(port, key).open()
        try:
            asked = asking(f"Go tokens={tokens}", stream=True)
            return sum([len(chunk) async for chunk in connection.stream(CHAT, asked)])
        finally:
            connection.close()

    return sum(await asyncio.gather(*(read(ports[n % len(ports)]) for n in range(count))))


def _a_core_second(webs: dict[int, Service], key: str, count: int, seconds: int) -> float:
    """Bytes that these web processes, each with so many streams, pass on in a second of the busiest one's processor
    time. As many each: they send what has gathered meanwhile, so that less work costs more a byte."""

    def busy() -> dict[int, float]:
        return {port: sum(psutil.Process(web.pid).cpu_times()[:2]) for port, web in webs.items()}

    before = busy()
    read = asyncio.run(_read_streams(list(webs), key, count * len(webs), seconds * 25))
    after = busy()
    return read / max(after[port] - before[port] for port in webs)


async def _streams_a_second(ports: list[int], key: str, count: int, seconds: float) -> float:
    """Streams of a second's text that end in a second; so many programs ask each of these ports again and again."""
    ended = 0

    async def ask(port: int) -> None:
        nonlocal ended
        connection = await RawHttp(port, key).open()
        try:
            while time.monotonic() < end:
                words = [
                    chunk async for chunk in connection.stream(CHAT, asking("Go tokens=25", stream=True))
                ]
                assert b"[DONE]" in words[-1], words[-1]
                ended += time.monotonic() < end
        finally:
            connection.close()

    end = time.monotonic() + seconds
    await asyncio.gather(*(ask(port) for port in ports for _ in range(count)))
    return ended / seconds


def _in_shares(webs: dict[int, Service], key: str, count: int, seconds: float) -> Iterator[Row]:
    """One web process against two, each with the same share of a core."""
    name, unit, target = "ops.web.2.streams", "streams/s", 1.7
    ports = list(webs)
    try:
        with core_share(_SHARE, *(web.pid for web in webs.values())):
            one = asyncio.run(_streams_a_second(ports[:1], key, count, seconds))
            two = asyncio.run(_streams_a_second(ports, key, count, seconds))
            yield Row.at_least(name, two, one, unit, target)
    except NoShares as error:
        yield Row.without_peer(name, 0.0, str(error), unit, target)


def webs(count: int = 200, seconds: int = 15) -> Iterator[Row]:
    site = clock_site()
    try:
        site.start()
        site.create_owner()
        key = key_of(site)
        with second_web(site) as web:
            both = {site.port: site.web, int(web.environment["PORT"]): web}
            asyncio.run(_read_streams(list(both), key, 20, 25))  # warms up
            one = _a_core_second({site.port: site.web}, key, count, seconds)
            two = _a_core_second(both, key, count, seconds)
            yield Row.at_least("ops.web.2", two / 1e3, one / 1e3, "kB a core second", 1.7)
            yield from _in_shares(both, key, count // 2, seconds)
    finally:
        site.stop()
