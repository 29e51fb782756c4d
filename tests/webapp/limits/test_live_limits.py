"""A live site under limits: many pages send at once, and no more than the limit are let in, whichever they are."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from typing import Any

import openai
import websockets
from asgiref.sync import sync_to_async
from websockets.typing import Origin

from inference.models import Generation, UsageDay
from tests.load.people import cookies
from tests.services import Site
from tests.webapp.api.live_clients import async_openai_client
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import LimitRule, Membership, Role, User, Workspace

PEOPLE, EACH, MOST = 6, 4, 10


@sync_to_async
def people_under_a_limit(site: Site) -> tuple[uuid.UUID, list[str]]:
    """A workspace of its own, and the cookies of its people."""
    theirs = cookies(site, PEOPLE)
    with site.rows():
        workspace = Workspace.objects.filter(name="Many").latest("created_at")
        LimitRule.objects.create(workspace=workspace, requests_per_minute=MOST)
    return workspace.pk, theirs


async def send_all(site: Site, cookie: str) -> list[dict[str, Any]]:
    """Sends messages one right after the other; what came back for each, once those that were taken are answered."""
    address = {"additional_headers": {"Cookie": cookie}, "origin": Origin(site.base_url)}
    ids = {str(uuid.uuid4()) for _ in range(EACH)}
    answers, unanswered = [], 0
    async with websockets.connect(site.ws_url, **address) as socket:  # type: ignore[arg-type]
        for client_id in ids:
            frame = {"type": "send", "conversation": None, "client_id": client_id, "text": "Hello tokens=3"}
            await socket.send(json.dumps(frame))
        while len(answers) < EACH or unanswered:
            frame = json.loads(await asyncio.wait_for(socket.recv(), 30))
            if frame.get("client_id") in ids:
                answers.append(frame)
                unanswered += frame["type"] == "accepted"
            unanswered -= frame["type"] == "done"
    return answers


async def test_many_who_send_at_once_are_let_in_up_to_the_limit_and_not_one_more(live_site: Site) -> None:
    workspace, theirs = await people_under_a_limit(live_site)
    answers = [
        answer
        for each in await asyncio.gather(*(send_all(live_site, cookie) for cookie in theirs))
        for answer in each
    ]
    assert Counter(answer["type"] for answer in answers) == {"accepted": MOST, "error": PEOPLE * EACH - MOST}
    refused = [answer for answer in answers if answer["type"] == "error"]
    assert {answer["code"] for answer in refused} == {"rate_limit_exceeded"}
    assert all(
        answer["message"].startswith("The limit for this workspace is 10 requests a minute. Try again in ")
        for answer in refused
    )

    @sync_to_async
    def in_the_books() -> tuple[int, int]:
        with live_site.rows():
            replies = Generation.objects.filter(workspace=workspace, purpose="reply").count()
            days = UsageDay.objects.filter(workspace=workspace)
            return replies, sum(days.values_list("requests", flat=True))

    assert await in_the_books() == (MOST, MOST)


@sync_to_async
def key_under_a_limit(site: Site, **numbers: int) -> tuple[uuid.UUID, str]:
    """Of a workspace of its own, of which no process knows yet that it has no rules."""
    with site.rows():
        person = User.objects.create_user(f"{uuid.uuid4().hex}@example.org")
        workspace = Workspace.objects.create(name="Programs")
        Membership.objects.create(workspace=workspace, user=person, role=Role.OWNER)
        key, token = create_key(user=person, workspace=workspace, name="test", scopes=["chat"])
        LimitRule.objects.create(workspace=workspace, api_key=key, **numbers)
    return key.pk, token


async def test_programs_that_call_at_once_are_let_in_up_to_the_limit_and_told_what_is_left(
    live_site: Site,
) -> None:
    key, token = await key_under_a_limit(live_site, requests_per_minute=9, tokens_per_minute=100_000)
    client = async_openai_client(live_site, token)

    async def ask() -> Any:
        try:
            return await client.chat.completions.with_raw_response.create(
                model="scripted", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
            )
        except openai.RateLimitError as refused:
            return refused

    answers = await asyncio.gather(*(ask() for _ in range(24)))
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    taken = [answer for answer in answers if not isinstance(answer, openai.RateLimitError)]
    assert len(taken) == 9
    left = sorted(int(answer.headers["x-ratelimit-remaining-requests"]) for answer in taken)
    assert left == list(range(9))
    assert {answer.headers["x-ratelimit-limit-tokens"] for answer in taken} == {"100000"}
    assert {answer.code for answer in refused} == {"rate_limit_exceeded"}
    assert all(1 <= int(answer.response.headers["retry-after"]) <= 61 for answer in refused)
    assert all(answer.response.headers["x-ratelimit-remaining-requests"] == "0" for answer in refused)

    @sync_to_async
    def counted() -> int:
        with live_site.rows():
            return sum(UsageDay.objects.filter(api_key_id=key).values_list("requests", flat=True))

    assert await counted() == 9
