"""How soon a conversation of 1,000 messages is on screen: at the server, and in a browser."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

import httpx
from django.utils import timezone
from playwright.sync_api import sync_playwright

from inference.models import Generation, ServedModel
from tests.browser.conftest import launch
from tests.load.bench import Row
from tests.services import Site
from webapp.accounts.models import User
from webapp.chat.models import Conversation, Message

_ANSWER = """Here is **answer {n}**, with a list:

1. the first point, with `code`
2. the second point

```python
def add(a, b):
    return a + b  # {n}
```

| a | b |
|---|---|
| {n} | $x^2$ |
"""


def thousand_messages(site: Site) -> str:
    """Gives the site's owner a conversation of 1,000 messages; its id."""
    now = timezone.now()
    with site.rows():
        owner = User.objects.get()
        workspace = owner.workspaces.get()
        model = ServedModel.objects.get()
        conversation = Conversation.objects.create(
            user=owner, workspace=workspace, title="Long", title_source="person", updated_at=now
        )
        replies = [
            Generation(
                workspace=workspace, model=model, messages=[], seed=n, state="complete", finish_reason="stop",
                text=_ANSWER.format(n=n), deadline=now, sent_at=now,
            )
            for n in range(500)
        ]  # fmt: skip
        Generation.objects.bulk_create(replies)
        messages = []
        for n, reply in enumerate(replies):
            asked = Message(conversation=conversation, position=2 * n, role="user", text=f"Question {n}")
            answer = Message(
                conversation=conversation, position=2 * n + 1, role="assistant", generation=reply
            )
            messages += [asked, answer]
        Message.objects.bulk_create(messages)
        return str(conversation.id)


def _server_seconds(http: httpx.Client, address: str) -> float:
    started = time.perf_counter()
    answer = http.get(address)
    assert answer.status_code == 200
    assert "Question 499" in answer.text
    return time.perf_counter() - started


def long_conversation() -> Iterator[Row]:
    site = Site()
    try:
        site.start()
        site.create_owner()
        address = f"/c/{thousand_messages(site)}/"
        http = site.log_in()
        first = _server_seconds(http, address)
        again = statistics.median(_server_seconds(http, address) for _ in range(10))
        yield Row.at_most("chat.open.server.first", first * 1000, 200, "ms")
        yield Row.at_most("chat.open.server", again * 1000, 200, "ms")
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # Playwright's loop runs in this thread
        with sync_playwright() as playwright:
            browser = launch(playwright)
            context = browser.new_context(base_url=site.base_url)
            context.add_cookies(
                [{"name": k, "value": v, "url": site.base_url} for k, v in http.cookies.items()]
            )
            page = context.new_page()
            times = []
            for _ in range(5):
                page.goto(address)
                # The modules have run by then: the composer takes what is typed.
                script = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
                times.append(page.evaluate(script))
            browser.close()
        yield Row.at_most("chat.open.interactive", statistics.median(times), 1000, "ms")
    finally:
        site.stop()
