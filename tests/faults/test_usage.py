"""What is used is counted once, whatever dies: workers are killed between all steps of a reply, and the books agree."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import pytest
from asgiref.sync import sync_to_async
from django.db.models import F, Sum
from django.utils import timezone

from inference.models import Generation, UsageDay
from tests.chat_client import ChatPage, chat_page, generation_row
from tests.services import Site, wait_until

pytestmark = pytest.mark.faults


@sync_to_async
def books(site: Site, since: datetime) -> tuple[int, int]:
    """Once everything has ended: the tokens in the books, and those in rows made since then.

    Older rows may be forgotten meanwhile, as those of completions that nobody wanted stored.
    """

    def all_ended() -> bool:
        return not Generation.objects.filter(state__in=("queued", "running")).exists()

    with site.rows():
        wait_until(all_ended, "every generation to end", 60, every=0.1)
        tokens = Sum(F("prompt_tokens") + F("completion_tokens"), default=0)
        counted = UsageDay.objects.aggregate(tokens=tokens)["tokens"]
        return counted, Generation.objects.filter(created_at__gte=since).aggregate(tokens=tokens)["tokens"]


async def _as_soon_as_it_is_sent(site: Site, page: ChatPage, reply: str) -> None:
    pass


async def _while_it_grows(site: Site, page: ChatPage, reply: str) -> None:
    await page.text_arrives(reply, blocks=1)


async def _with_its_last_token(site: Site, page: ChatPage, reply: str) -> None:
    """As near to the final row as can be had from outside: before it, or behind it and before what follows."""
    generation = page.replies[reply].generation
    while (await generation_row(site, generation)).state in ("queued", "running"):
        pass


@pytest.mark.parametrize("moment", [_as_soon_as_it_is_sent, _while_it_grows, _with_its_last_token])
async def test_a_reply_whose_worker_is_killed_is_counted_once(
    live_site: Site, moment: Callable[[Site, ChatPage, str], Awaitable[None]]
) -> None:
    began = timezone.now()
    before, _ = await books(live_site, began)
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say("Hello tokens=60")
        await moment(live_site, page, reply)
        await asyncio.to_thread(live_site.inference[0].kill)
        await asyncio.to_thread(live_site.start_inference)
        await page.ends(reply)
        row = await generation_row(live_site, page.replies[reply].generation)
    assert (row.state, row.completion_tokens) == ("complete", 60)
    assert row.prompt_tokens > 0
    after, of_rows = await books(live_site, began)
    assert after - before == of_rows > 60
