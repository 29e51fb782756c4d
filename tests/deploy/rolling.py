"""Every process of a deployed site restarted in turn under people and programs who chat. Knows no figure."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import httpx
from asgiref.sync import sync_to_async
from django.utils import timezone

from inference.models import Generation
from tests.chat_client import chat_page
from tests.deploy.deployed_site import REPLICAS, DeployedSite
from tests.scripted_engine import text_of
from tests.services import wait_until
from webapp.chat.models import Message

# All that are the site's own, each of which somebody restarts for an upgrade.
EVERY_PROCESS = ("web-a", "web-b", "inference-1", "inference-2", "training", "worker", "data", "beat")
PASSWORD = "correct horse 1"
_SERVER_ERROR = re.compile(r'" 5\d\d ')


@dataclass
class Rolled:
    """What clients saw."""

    began: datetime = field(default_factory=timezone.now)
    replies: int = 0  # of sockets, whole
    answers: int = 0  # of programs, whole
    wrong: list[str] = field(default_factory=list)  # anything else
    slowest: float = 0.0  # seconds a page took
    states: dict[str, int] = field(default_factory=dict)  # of all generations
    exits: dict[str, int] = field(default_factory=dict)  # of the processes
    handed_over: int = 0  # replies more than one worker wrote at


async def roll(
    site: DeployedSite, *, people: int, programs: int, processes: Sequence[str], reply: str
) -> Rolled:
    """`reply`: what a scripted reply is like, as "tokens=60 rate=20"."""
    names = [f"person{number}@example.org" for number in range(people)]
    for email in [*names, "program@example.org"]:
        await asyncio.to_thread(site.create_owner, email, PASSWORD)
    clients = [await asyncio.to_thread(site.log_in, email, PASSWORD) for email in names]
    key = (await asyncio.to_thread(site.manage, "createkey", "--email", "program@example.org")).strip()
    seen, over = Rolled(), asyncio.Event()
    work = [
        *(_chat(site, client, reply, seen, over) for client in clients),
        *(_complete(site, key, number, reply, seen, over) for number in range(programs)),
        _look(site, clients[0], seen, over),
    ]
    running = [asyncio.ensure_future(_noting(each, seen)) for each in work]
    try:
        for name in processes:
            seen.exits[name] = await asyncio.to_thread(site.restart, name)
            if name.startswith("inference"):
                await asyncio.to_thread(wait_until, lambda: site.workers_ready() == REPLICAS, name, 120)
    finally:
        over.set()
        await asyncio.gather(*running)
    await _look_at_rows(site, seen)
    return seen


async def _noting(work: object, seen: Rolled) -> None:
    try:
        await work  # type: ignore[misc]
    except Exception as error:
        seen.wrong.append(f"{type(error).__name__}: {error}")


async def _chat(
    site: DeployedSite, client: httpx.Client, reply: str, seen: Rolled, over: asyncio.Event
) -> None:
    async with chat_page(site, client) as page:
        while not over.is_set():
            said = await page.say(f"Hello {reply}")
            shown = await page.ends(said, 120)
            row = await _row(site, said)
            if shown.state == row.state == "complete" and shown.shows(row.text):
                seen.replies += 1
            else:
                seen.wrong.append(f"a reply is {shown.state}, its row {row.state}")


async def _complete(
    site: DeployedSite, key: str, number: int, reply: str, seen: Rolled, over: asyncio.Event
) -> None:
    """A program that comes back for nothing: what it asked is answered, or it is lost."""
    tokens = int(reply.split("tokens=")[1].split()[0])
    headers = {"Authorization": f"Bearer {key}"}
    asked = {"model": "scripted", "messages": [{"role": "user", "content": reply}]}
    seed, streams = number * 100_000, bool(number % 2)
    async with httpx.AsyncClient(verify=site.tls or True, timeout=120, trust_env=False) as http:
        while not over.is_set():
            seed += 1
            body = {**asked, "seed": seed, "stream": streams}
            answer = await http.post(f"{site.base_url}/v1/chat/completions", json=body, headers=headers)
            text = _streamed(answer.text) if streams else ""
            if answer.status_code == 200 and not streams:
                text = answer.json()["choices"][0]["message"]["content"]
            if answer.status_code == 200 and text == text_of(seed, tokens):
                seen.answers += 1
            else:
                seen.wrong.append(f"a program got {answer.status_code}: {answer.text[-200:]}")


def _streamed(body: str) -> str:
    found = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    parts = [json.loads(data) for data in found if data != "[DONE]"]
    return "".join(
        choice["delta"].get("content") or "" for part in parts for choice in part.get("choices", ())
    )


async def _look(site: DeployedSite, client: httpx.Client, seen: Rolled, over: asyncio.Event) -> None:
    """Somebody who opens one page after the other."""
    cookies = dict(client.cookies)
    while not over.is_set():
        async with httpx.AsyncClient(
            verify=site.tls or True, timeout=60, cookies=cookies, trust_env=False
        ) as http:
            began = time.monotonic()
            answer = await http.get(site.base_url + "/", follow_redirects=True)
            seen.slowest = max(seen.slowest, time.monotonic() - began)
        if answer.status_code != 200:
            seen.wrong.append(f"a page came with {answer.status_code}")
        await asyncio.sleep(0.2)


@sync_to_async
def _row(site: DeployedSite, message_id: str) -> Generation:
    with site.rows():
        return Generation.objects.get(pk__in=Message.objects.filter(id=message_id).values("generation"))


@sync_to_async
def _look_at_rows(site: DeployedSite, seen: Rolled) -> None:
    """The proxy's own record, and the database's."""
    log = (site.home / "access.log").read_text()
    seen.wrong += [line for line in log.splitlines() if _SERVER_ERROR.search(line)]
    with site.rows():
        rows = Generation.objects.filter(created_at__gte=seen.began).exclude(purpose="title")
        seen.states = Counter(rows.values_list("state", flat=True))
        seen.handed_over = rows.filter(attempt__gt=1).count()
