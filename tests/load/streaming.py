"""One reply's way from the engine to a socket: what of the engine's rate arrives, how late, and how soon it begins."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.engine_alone import TOKENS
from tests.load.people import cookies
from tests.load.raw_socket import RawSocket
from tests.load.sockets import clock_site, send_frame, watch_many
from tests.services import REAL, ROOT, Site, minimal_environment

PROMPT = "Write a long story about a lighthouse keeper and the sea."


class Streamed:
    """A socket that notes when its reply's first and last words came.

    The person names the conversation, so that the engine is not busy with a title while others still read.
    """

    def __init__(self) -> None:
        self.socket: RawSocket | None = None
        self.first = self.last = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def take(self, payload: bytes) -> None:
        frame: dict[str, Any] = json.loads(payload)
        if frame["type"] == "accepted":
            assert self.socket is not None
            self.socket.send({"type": "rename", "conversation": frame["conversation"], "title": "Measured"})
        elif frame["type"] == "stream" and (frame.get("text") or frame.get("blocks")):
            self.last = time.monotonic()
            self.first = self.first or self.last
        elif frame["type"] == "done":
            self.done.set_result(None)


async def _stream(site: Site, people: list[str]) -> list[Streamed]:
    streams = []
    for cookie in people:
        streams.append(stream := Streamed())
        stream.socket = await RawSocket.open(site.port, cookie, stream.take)
    for stream in streams:
        stream.socket.send(send_frame(PROMPT))
    await asyncio.wait_for(asyncio.gather(*(stream.done for stream in streams)), 300)
    for stream in streams:
        stream.socket.close()
    return streams


def _site_rate(site: Site, people: list[str]) -> float:
    """Tokens a second of all replies together, each from its first word on the page to its last."""
    return sum(TOKENS / (stream.last - stream.first) for stream in asyncio.run(_stream(site, people)))


def engine_rate(site: Site, count: int) -> float:
    """The same prompts and lengths on the engine alone, in a process of its own, while the site idles."""
    program = [sys.executable, "-m", "tests.load.engine_alone", str(demo_model()), str(count), PROMPT]
    done = subprocess.run(
        program, cwd=ROOT, env=minimal_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def rate(count: int, target: float) -> Iterator[Row]:
    """What of the engine's rate with `count` replies at once arrives, both measured by turns."""
    site = Site(engine="tests.load.real_engine.load")
    try:
        site.start(model=REAL)
        people = cookies(site, count)
        _site_rate(site, people[:1])  # warms up
        alone, through = [], []
        # From one turn to the next the machine's noise is more than what is looked for.
        for _ in range(9):
            alone.append(engine_rate(site, count))
            through.append(_site_rate(site, people))
        yield Row.at_least(
            f"chat.rate.{count}", statistics.median(through), statistics.median(alone), "tokens/s", target
        )
    finally:
        site.stop()


def latency() -> Iterator[Row]:
    site = clock_site()
    try:
        site.start()
        lags = asyncio.run(watch_many(site, cookies(site, 1), 20 * 25)).lags
        yield Row.at_most("chat.latency.median", statistics.median(lags), 5, "ms")
        yield Row.at_most("chat.latency.p95", statistics.quantiles(lags, n=20)[18], 20, "ms")
    finally:
        site.stop()


async def _ask_one_after_the_other(site: Site, cookie: str, times: int) -> dict[str, float]:
    """Asks when all is idle; answers each generation with the time its question was sent at."""
    arrived: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    socket = await RawSocket.open(site.port, cookie, lambda payload: arrived.put_nowait(json.loads(payload)))
    sent: dict[str, float] = {}
    conversation = None
    for _ in range(times):
        at = time.time()
        socket.send(send_frame("Go tokens=2") | {"conversation": conversation})
        while (frame := await asyncio.wait_for(arrived.get(), 30))["type"] != "done":
            if frame["type"] == "accepted":
                sent[frame["generation"]], conversation = at, frame["conversation"]
        await asyncio.sleep(0.3 if len(sent) > 1 else 3)  # idle again; the first reply is followed by a title
    socket.close()
    return sent


def admission(times: int = 60) -> Iterator[Row]:
    """From the press of send, in the client, to the engine's admission, in the worker; one clock."""
    from inference.models import Generation

    site = clock_site()
    try:
        site.start()
        sent = asyncio.run(_ask_one_after_the_other(site, cookies(site, 1)[0], times))
        with site.rows():
            admitted = dict(Generation.objects.filter(id__in=sent).values_list("id", "admitted_at"))
        waits = [admitted[uuid.UUID(key)].timestamp() - at for key, at in list(sent.items())[5:]]
        print(f"    p50 {statistics.median(waits) * 1e3:.1f} ms, max {max(waits) * 1e3:.1f} ms")
        yield Row.at_most("chat.admission.median", statistics.median(waits) * 1e3, 15, "ms")
    finally:
        site.stop()
