"""Many sockets on one web process: how far behind the furthest is, what an idle one costs, what a stalled one does."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

from tests.chat_client import ShownReply
from tests.load.bench import Row
from tests.load.clock_engine import MODULUS, clock
from tests.load.people import cookies
from tests.load.raw_socket import RawSocket
from tests.services import Site

_CLOCK = re.compile(r"\b\d{8}\b")
_RATE = 25
_ARRIVALS = 25  # people a second who press send
MEMORY_LIMIT_KIB = 40


def clock_site(**environment: str) -> Site:
    return Site(
        engine="tests.load.clock_engine.load",
        environment={
            "INFERENCE_MAX_RUNNING": "4096",
            "INFERENCE_MAX_QUEUED": "10000",
            "INFERENCE_LEASE_SECONDS": "30",
            "SCRIPTED_RATE": str(_RATE),
            **environment,
        },
    )


@dataclass
class Viewer:
    """One person's page. Frames are only noted as they come, so that a thousand viewers cost little; `replay` reads
    them afterwards."""

    shown: ShownReply = field(default_factory=lambda: ShownReply(""))
    reply: str = ""
    done: int = 0  # clock() at the end of the reply
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    lags: list[tuple[int, int]] = field(
        default_factory=list
    )  # (clock, ms a frame's oldest new word was late)

    def take(self, payload: bytes) -> None:
        kind = payload[9:14]  # behind {"type":"
        if kind == b"strea":
            self.frames.append((clock(), payload))
        elif kind == b"accep":
            frame = json.loads(payload)
            self.reply, self.shown.generation = frame["reply"], frame["generation"]
        elif kind == b'done"':
            self.done = clock()
        elif kind == b"error":
            raise AssertionError(payload)

    def replay(self) -> None:
        last = -1
        for now, payload in self.frames:
            frame = json.loads(payload)
            self.shown.apply(frame)
            # HTML repeats words that came as text; but where both came at once, only the HTML is sent.
            parts = (*frame.get("blocks", ()), frame.get("open", ""), frame.get("text", ""))
            new = [word for part in parts for word in map(int, _CLOCK.findall(part)) if word > last]
            if new:
                last = max(new)
                self.lags.append((now, (now - min(new)) % MODULUS))
        self.frames.clear()


def lags_between(viewers: list[Viewer], begin: int = 0, end: int = MODULUS) -> list[int]:
    return [lag for viewer in viewers for at, lag in viewer.lags if begin <= at < end]


def send_frame(text: str) -> dict[str, object]:
    return {"type": "send", "conversation": None, "client_id": str(uuid.uuid4()), "text": text}


async def _all(viewers: list[Viewer], name: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not all(getattr(viewer, name) for viewer in viewers):
        assert time.monotonic() < end, f"{sum(not getattr(v, name) for v in viewers)} viewers without {name}"
        await asyncio.sleep(0.1)


class Watched(NamedTuple):
    viewers: list[Viewer]
    lags: list[int]  # ms, of every frame from when all replies were running until the first one ended
    web_share: float  # of a core, in that time


async def watch_many(site: Site, people: list[str], tokens: int) -> Watched:
    """These people each ask something and follow the answer."""
    viewers, sockets = [Viewer() for _ in people], []
    for cookie, viewer in zip(people, viewers, strict=True):
        sockets.append(await RawSocket.open(site.port, cookie, viewer.take))
    web = psutil.Process(site.web.pid)
    for socket in sockets:
        socket.send(send_frame(f"Go tokens={tokens}"))
        await asyncio.sleep(1 / _ARRIVALS)  # spread: this measures streaming, not a stampede of senders
    await _all(viewers, "reply", 60)
    begin, started, cpu = clock(), time.monotonic(), sum(web.cpu_times()[:2])
    await asyncio.sleep(min(20, tokens / _RATE / 3))
    share = (sum(web.cpu_times()[:2]) - cpu) / (time.monotonic() - started)
    await _all(viewers, "done", tokens / _RATE + 90)
    assert not any(socket.closed for socket in sockets), "a socket was closed"
    for socket in sockets:
        socket.close()
    for viewer in viewers:
        viewer.replay()
    return Watched(viewers, lags_between(viewers, begin, min(viewer.done for viewer in viewers)), share)


def lost(site: Site, viewers: list[Viewer]) -> int:
    """Viewers whose page does not show exactly what the database holds."""
    from inference.models import Generation

    with site.rows():
        texts = dict(Generation.objects.filter(purpose="reply").values_list("id", "text"))
    return sum(not v.shown.shows(texts[uuid.UUID(v.shown.generation)]) for v in viewers)


def _rate(site: Site) -> float:
    """Tokens a second of the slowest reply, by the times in its words: a site that falls behind must not slow them."""
    from inference.models import Generation

    with site.rows():
        texts = list(Generation.objects.filter(purpose="reply").values_list("text", flat=True))
    times = [[int(word) for word in _CLOCK.findall(text)] for text in texts]
    return min((len(words) - 1) * 1000 / ((words[-1] - words[0]) % MODULUS) for words in times)


def streaming(count: int = 1500, seconds: int = 30) -> Iterator[Row]:
    site = clock_site()
    try:
        site.start()
        tokens = int(seconds + count / _ARRIVALS) * _RATE
        watched = asyncio.run(watch_many(site, cookies(site, count), tokens))
        worst = max(watched.lags)
        print(
            f"    {count} sockets: lag of a frame's oldest word p50 {statistics.median(watched.lags):.0f} ms, "
            f"p99 {statistics.quantiles(watched.lags, n=100)[98]:.0f} ms, max {worst} ms; "
            f"web process {watched.web_share:.0%} of a core"
        )
        yield Row.at_most(f"chat.sockets.streaming.{count}.behind", worst, 1000, "ms")
        yield Row.at_least(f"chat.sockets.streaming.{count}.rate", _rate(site), _RATE, "tokens/s each", 0.95)
        gone = lost(site, watched.viewers)
        yield Row.at_most(f"chat.sockets.streaming.{count}.lost", gone + 1, 1, "sockets with a gap, plus one")
    finally:
        site.stop()


async def idle_memory(site: Site, warm: list[str]) -> float:
    first = [await RawSocket.open(site.port, cookie, lambda _: None) for cookie in warm[:100]]
    await asyncio.sleep(2)
    web = psutil.Process(site.web.pid)
    before = web.memory_info().rss
    rest = [await RawSocket.open(site.port, cookie, lambda _: None) for cookie in warm[100:]]
    await asyncio.sleep(3)
    assert not any(socket.closed for socket in (*first, *rest)), "an idle socket was closed"
    grown = web.memory_info().rss - before
    for socket in (*first, *rest):
        socket.close()
    return grown / len(rest) / 1024


def idle(count: int = 2100) -> Iterator[Row]:
    site = clock_site()
    try:
        site.start()
        yield Row.at_most(
            "chat.sockets.idle.2000.memory",
            asyncio.run(idle_memory(site, cookies(site, count))),
            MEMORY_LIMIT_KIB,
            "KiB each",
        )
    finally:
        site.stop()


async def behind_a_stalled_one(site: Site, people: list[str], tokens: int) -> int:
    """The worst lag of these people, all but one, while that one's socket stops reading in the middle of its reply."""
    idler = await RawSocket.open(site.port, people.pop(), lambda _: None)
    idler.send(send_frame("Go rate=500 tokens=100000"))
    await asyncio.sleep(0.5)
    assert idler.transport is not None
    idler.transport.pause_reading()
    viewers, sockets = [Viewer() for _ in people], []
    for cookie, viewer in zip(people, viewers, strict=True):
        sockets.append(await RawSocket.open(site.port, cookie, viewer.take))
        sockets[-1].send(send_frame(f"Go tokens={tokens}"))
    await _all(viewers, "done", tokens / _RATE + 60)
    for socket in sockets:
        socket.close()
    for viewer in viewers:
        viewer.replay()
    return max(lags_between(viewers))


def stalled() -> Iterator[Row]:
    site = clock_site()
    try:
        site.start()
        worst = asyncio.run(behind_a_stalled_one(site, cookies(site, 51), 250))
        yield Row.at_most("chat.sockets.stalled.behind", worst, 1000, "ms, of 50 others")
    finally:
        site.stop()
