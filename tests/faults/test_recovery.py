"""Promises 1 to 5 under fire: real processes are killed, frozen and restarted in the middle of a reply."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis import Redis

from inference.models import Generation
from tests.chat_client import ChatPage, ShownReply, chat_page, generation_row
from tests.scripted_engine import text_of
from tests.services import Site

pytestmark = pytest.mark.faults

TOKENS = 150


async def whole(site: Site, page: ChatPage, reply: str) -> tuple[ShownReply, Generation]:
    """Waits for the reply's end; the row and the page both hold exactly what an undisturbed run would give."""
    shown = await page.ends(reply)
    row = await generation_row(site, shown.generation)
    assert row.state == shown.state == "complete"
    assert row.text == text_of(row.seed, TOKENS)
    assert row.completion_tokens == TOKENS
    assert shown.shows(row.text)
    return shown, row


async def test_another_worker_finishes_a_reply_whose_worker_was_killed(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say(f"Hello tokens={TOKENS}")
        await page.text_arrives(reply, blocks=1)
        await asyncio.to_thread(live_site.inference[0].kill)
        await asyncio.to_thread(live_site.start_inference)
        _, row = await whole(live_site, page, reply)
        assert (row.attempt, row.crashes) == (2, 1)


async def test_a_worker_that_is_told_to_stop_hands_its_replies_over_without_a_pause_for_its_lease(
    live_site: Site,
) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        await asyncio.to_thread(live_site.start_inference)
        await asyncio.to_thread(live_site.wait_ready)
        replies = [await page.say(f"Hello {i} tokens={TOKENS}") for i in range(3)]
        await page.text_arrives(replies[0])
        status = await asyncio.to_thread(live_site.inference[0].stop)
        assert status == 0
        for reply in replies:
            _, row = await whole(live_site, page, reply)
            assert row.crashes == 0


async def test_a_reply_goes_on_after_the_broker_was_killed_and_restarted(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say(f"Hello tokens={TOKENS}")
        await page.text_arrives(reply, blocks=1)
        await asyncio.to_thread(live_site.valkey.kill)
        await asyncio.to_thread(live_site.valkey.start)
        await whole(live_site, page, reply)


async def test_a_reply_goes_on_while_the_web_process_is_killed_and_restarted(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say(f"Hello tokens={TOKENS}")
        await page.text_arrives(reply, blocks=1)
        await asyncio.to_thread(live_site.web.kill)
        await asyncio.to_thread(live_site.web.start)
        await whole(live_site, page, reply)
        assert page.reconnects > 0


async def test_a_page_that_loses_its_connection_again_and_again_shows_the_same_text(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say(f"Hello tokens={TOKENS}")
        for _ in range(5):
            await page.text_arrives(reply)
            before = page.reconnects
            await page.drop_connection()
            await page.wait(lambda before=before: page.reconnects > before and page._socket)
        await whole(live_site, page, reply)


async def test_a_worker_that_was_thought_dead_cannot_write_into_a_reply_taken_over(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say(f"Hello tokens={TOKENS}")
        await page.text_arrives(reply, blocks=1)
        frozen = live_site.inference[0]
        frozen.freeze()
        try:
            await asyncio.to_thread(live_site.start_inference)
            shown = page.replies[reply]
            await page.wait(lambda: shown.attempt == 2)
        finally:
            frozen.thaw()
        await whole(live_site, page, reply)


async def test_what_was_accepted_is_answered_although_everything_is_killed_at_once(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say(f"Hello tokens={TOKENS}")
        for service in live_site.services:
            await asyncio.to_thread(service.kill)
        await asyncio.to_thread(live_site.heal)
        await whole(live_site, page, reply)


def task_queue(client: Redis) -> bytes:
    """The only one that holds any."""
    [key] = client.keys("celery:generate*")
    return key


async def test_a_task_the_broker_lost_is_sent_again(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        await asyncio.to_thread(live_site.inference[0].kill)
        reply = await page.say(f"Hello tokens={TOKENS}")
        with live_site.valkey.client() as client:
            assert client.delete(task_queue(client)) == 1
        await asyncio.to_thread(live_site.start_inference)
        await whole(live_site, page, reply)


async def test_a_task_that_is_delivered_twice_runs_once(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        await asyncio.to_thread(live_site.inference[0].kill)
        reply = await page.say(f"Hello tokens={TOKENS}")
        with live_site.valkey.client() as client:
            task = client.lindex(task_queue(client), 0)
            client.rpush(task_queue(client), task, task)
        await asyncio.to_thread(live_site.start_inference)
        _, row = await whole(live_site, page, reply)
        assert row.attempt == 1


async def test_a_reply_whose_workers_die_three_times_keeps_its_words_and_says_so(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say("Hello tokens=2000 rate=50")
        for attempt in (1, 2, 3):
            shown = page.replies[reply]
            await page.wait(lambda shown=shown, attempt=attempt: shown.attempt == attempt)
            await asyncio.to_thread(live_site.inference[-1].kill)
            await asyncio.to_thread(live_site.start_inference)
        shown = await page.ends(reply)
        row = await generation_row(live_site, shown.generation)
        assert (row.state, row.crashes, row.error_code) == ("interrupted", 3, "interrupted")
        assert row.text
        assert text_of(row.seed, 2000).startswith(row.text)
        assert shown.shows(row.text)


async def test_stop_ends_a_reply_within_a_moment_and_keeps_what_it_said(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say("Hello tokens=2000 rate=20")
        await page.text_arrives(reply)
        started = time.monotonic()
        await page.command("stop", message=reply)
        shown = await page.ends(reply)
        # A step takes 50 ms here; the rest is two hops through the broker and the row, on a busy machine.
        assert time.monotonic() - started < 1.0
        row = await generation_row(live_site, shown.generation)
        assert row.state == "cancelled"
        assert 0 < row.completion_tokens < 100
        assert shown.shows(row.text)


async def test_stop_reaches_a_worker_that_could_not_hear_it(live_site: Site) -> None:
    """The published request is lost; the worker finds it in the row when it renews its lease."""
    async with chat_page(live_site, live_site.log_in()) as page:
        reply = await page.say("Hello tokens=2000 rate=20")
        await page.text_arrives(reply)

        def ask_in_the_row_only() -> None:
            with live_site.rows():
                Generation.objects.filter(id=page.replies[reply].generation).update(cancel_requested=True)

        await asyncio.to_thread(ask_in_the_row_only)
        assert (await page.ends(reply, 10)).state == "cancelled"
