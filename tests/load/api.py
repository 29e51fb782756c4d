"""Programs at the API: what a completion costs beside the engine, how many there are in a second, what too many get."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psutil

from inference.catalog import DEMO
from tests.load.bench import Row
from tests.load.clock_engine import MODULUS, clock
from tests.load.engine_alone import TOKENS
from tests.load.raw_http import RawHttp
from tests.load.sockets import clock_site
from tests.load.streaming import PROMPT, engine_rate
from tests.postgres import Cluster, binaries, create_database
from tests.services import REAL, Site
from tests.webapp.api.live_clients import key_of

CHAT = "/v1/chat/completions"


def fast_site(**environment: str) -> Site:
    """Answers as soon as it is asked: what takes time is everything else."""
    return Site(environment={"SCRIPTED_RATE": "1000000", "INFERENCE_LEASE_SECONDS": "30", **environment})


def asking(said: str, **fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": said}], **fields}


@asynccontextmanager
async def connections(site: Site, key: str, count: int) -> AsyncIterator[list[RawHttp]]:
    opened = [await RawHttp(site.port, key).open() for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


def _start(site: Site, model: str = "") -> str:
    """The key of its owner."""
    site.start(model=model)
    site.create_owner()
    return key_of(site)


# --- one at a time -----------------------------------------------------------------------------------------------


async def _one_after_the_other(site: Site, key: str, times: int) -> dict[str, tuple[float, int]]:
    """Of each completion when it was sent, in seconds, and how late its last word was, in milliseconds."""
    around: dict[str, tuple[float, int]] = {}
    async with connections(site, key, 1) as [connection]:
        for _ in range(times):
            sent = time.time()
            answer = await connection.post(CHAT, asking("Go tokens=50 rate=250"))
            now = clock()
            assert answer.status == 200, answer
            last = int(answer.json()["choices"][0]["message"]["content"].split()[-1])
            around[answer.json()["id"].removeprefix("chatcmpl-")] = (sent, (now - last) % MODULUS)
    return around


def overheads(site: Site, key: str, times: int) -> list[float]:
    """Of each completion the milliseconds from its sending to the engine, and from the last word to its answer."""
    from inference.models import Generation

    around = asyncio.run(_one_after_the_other(site, key, times))
    with site.rows():
        rows = Generation.objects.filter(call_id__in=around).values_list("call_id", "admitted_at")
        admitted = {call.hex: at.timestamp() for call, at in rows}
    return [(admitted[id_] - sent) * 1e3 + behind for id_, (sent, behind) in around.items()]


def overhead() -> Iterator[Row]:
    yield from _overhead("sqlite", None)
    if binaries():
        cluster = Cluster()
        yield from _overhead("postgres", create_database(cluster.url("postgres")))


def _overhead(name: str, database_url: str | None, times: int = 100) -> Iterator[Row]:
    site = Site(
        engine="tests.load.clock_engine.load",
        database_url=database_url,
        environment={"INFERENCE_LEASE_SECONDS": "30"},
    )
    try:
        found = sorted(overheads(site, _start(site), times)[5:])
        print(f"    p50 {statistics.median(found):.1f} ms, p95 {found[int(len(found) * 0.95)]:.1f} ms")
        yield Row.at_most(f"api.overhead.{name}", statistics.median(found), 15, "ms")
    finally:
        site.stop()


async def _site_rate(site: Site, key: str) -> float:
    """Tokens a second of one stream, from its first words to its last."""
    asked = asking(PROMPT, stream=True) | {"model": DEMO.name}
    first = last = 0.0
    async with connections(site, key, 1) as [connection]:
        async for chunk in connection.stream(CHAT, asked):
            if b'"content":"' in chunk.replace(b'"content":""', b""):
                last = time.monotonic()
                first = first or last
    return TOKENS / (last - first)


def rate() -> Iterator[Row]:
    """What of the engine's rate arrives in one stream, both measured by turns."""
    site = Site(engine="tests.load.real_engine.load")
    try:
        engine_rate(site, 1)  # compiles what is not compiled yet: no start waits for that
        key = _start(site, REAL)
        asyncio.run(_site_rate(site, key))  # warms up
        alone, through = [], []
        for _ in range(9):
            alone.append(engine_rate(site, 1))
            through.append(asyncio.run(_site_rate(site, key)))
        yield Row.at_least(
            "api.rate.1", statistics.median(through), statistics.median(alone), "tokens/s", 0.95
        )
    finally:
        site.stop()


# --- many --------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    statuses: Counter[int]
    seconds: float
    costs: dict[str, float]  # milliseconds of processor time that each process took for a request

    @property
    def rate(self) -> float:
        return self.statuses[200] / self.seconds


def _processor_seconds(site: Site) -> dict[str, float]:
    processes = {"web": site.web, "worker": site.inference[0], "broker": site.valkey}
    found = {name: sum(psutil.Process(s.pid).cpu_times()[:2]) for name, s in processes.items()}
    return found | {"client": time.process_time()}


async def completions(site: Site, key: str, at_once: int, seconds: float, tokens: int = 8) -> Run:
    """So many programs, each of which asks again as soon as it is answered. Raises AssertionError where one gets what
    no program should, however busy the site is."""
    statuses: Counter[int] = Counter()

    async def ask(connection: RawHttp) -> None:
        while time.monotonic() < end:
            answer = await connection.post(CHAT, asking("Say something short, please.", max_tokens=tokens))
            assert answer.status in (200, 429, 503), answer
            assert answer.status == 200 or int(answer.headers["retry-after"]) > 0, answer
            statuses[answer.status] += 1

    async with connections(site, key, at_once) as opened:
        before, began = _processor_seconds(site), time.monotonic()
        end = began + seconds
        await asyncio.gather(*(ask(connection) for connection in opened))
        took, after = time.monotonic() - began, _processor_seconds(site)
    costs = {name: (after[name] - before[name]) * 1e3 / statuses.total() for name in after}
    return Run(statuses, took, costs)


def throughput(at_once: int = 32, seconds: float = 15) -> Iterator[Row]:
    site = fast_site()
    try:
        key = _start(site)
        asyncio.run(completions(site, key, at_once, 3))
        run = asyncio.run(completions(site, key, at_once, seconds))
        costs = ", ".join(f"{name} {cost:.2f}" for name, cost in run.costs.items())
        print(f"    {run.statuses.total()} answers; ms of processor time for each: {costs}")
        assert set(run.statuses) == {200}, run.statuses
        yield Row.at_least("api.completions", run.rate, 180, "completions/s", 1)
    finally:
        site.stop()


async def streams(site: Site, key: str, count: int, tokens: int) -> list[str]:
    """The texts of so many streams at once. Raises ConnectionError where one is refused."""

    async def read(connection: RawHttp) -> str:
        text, rest, data = "", b"", b""
        async for chunk in connection.stream(CHAT, asking(f"Go tokens={tokens}", stream=True)):
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                data = event.rpartition(b"data: ")[2]
                if data != b"[DONE]":
                    text += json.loads(data)["choices"][0]["delta"].get("content", "")
        assert data == b"[DONE]", "a stream ended too early"
        return text

    async with connections(site, key, count) as opened:
        return await asyncio.gather(*(read(connection) for connection in opened))


def wrong_streams(site: Site, key: str, count: int, seconds: int) -> int:
    """How many of so many streams at once, that last so long, do not show exactly what the database holds."""
    from inference.models import Generation

    texts = asyncio.run(streams(site, key, count, seconds * 25))
    with site.rows():
        stored = Counter(Generation.objects.values_list("text", flat=True))
    return (Counter(texts) - stored).total()


def two_hundred_streams(count: int = 200) -> Iterator[Row]:
    site = clock_site()
    try:
        wrong = wrong_streams(site, _start(site), count, 20)
        yield Row.at_most("api.streams.200.wrong", wrong + 1, 1, "streams that were cut or garbled, plus one")
    finally:
        site.stop()


# --- too many ----------------------------------------------------------------------------------------------------


async def recovery(site: Site, key: str, at_once: int, seconds: float) -> tuple[Counter[int], float]:
    """What so many got together, and the seconds from the last of it until one that asks alone is answered."""
    crowd = await completions(site, key, at_once, seconds)
    began = time.monotonic()
    async with connections(site, key, 1) as [connection]:
        while (await connection.post(CHAT, asking("Alone", max_tokens=1))).status != 200:
            await asyncio.sleep(0.05)
    return crowd.statuses, time.monotonic() - began


def overload(at_once: int = 300) -> Iterator[Row]:
    # Has places for few.
    site = fast_site(SCRIPTED_RATE="200", INFERENCE_MAX_QUEUED="20", INFERENCE_MAX_RUNNING="8")
    try:
        statuses, seconds = asyncio.run(recovery(site, _start(site), at_once, 10))
        print(f"    answers by status: {dict(statuses)}")
        assert statuses[503], "it was not too much"
        yield Row.at_most("api.overload.recovery", seconds, 2, "s")
    finally:
        site.stop()
