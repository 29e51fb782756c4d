"""The chat's pages and fragments, as a browser asks for them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from time import process_time
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from inference.models import Generation, ServedModel, Worker
from webapp.accounts.models import User, Workspace
from webapp.chat.days import group_by_day
from webapp.chat.models import Conversation, Message
from webapp.chat.rendering import render_list_item, render_message
from webapp.core import cache as steady

State = Generation.State


@pytest.fixture(autouse=True)
def _memory_cache(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    cache.clear()


@pytest.fixture
def model(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=2048, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip


@pytest.fixture
def conversation(alice: User, workspace: Workspace) -> Conversation:
    return Conversation.objects.create(
        user=alice, workspace=workspace, title="About <tides>", updated_at=timezone.now()
    )


@pytest.fixture
def hers(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


def say(conversation: Conversation, model: ServedModel, *turns: str, **reply: Any) -> list[Message]:
    """Adds turns, the person's and the model's in alternation; `reply` sets fields of the last generation."""
    start = conversation.messages.count()
    messages, generations = [], []
    for position, text in enumerate(turns, start):
        generation = None
        if position % 2:
            last = reply if position == start + len(turns) - 1 else {}
            fields = {"state": State.COMPLETE, "text": text, "finish_reason": "stop", **last}
            now = timezone.now()
            generation = Generation(
                workspace=conversation.workspace,
                model=model,
                messages=[],
                seed=1,
                deadline=now,
                sent_at=now,
                **fields,
            )
            generations.append(generation)
        role = Message.Role.ASSISTANT if generation else Message.Role.USER
        messages.append(
            Message(
                conversation=conversation,
                position=position,
                role=role,
                text="" if generation else text,
                generation=generation,
            )
        )
    Generation.objects.bulk_create(generations)
    return Message.objects.bulk_create(messages)


def shown(response: Any) -> str:
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


# --- Whose is what -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/c/{c}/", "/c/{c}/messages?before=9", "/c/message/{m}/source"])
def test_an_outsider_a_teammate_and_a_stranger_see_nothing_of_a_conversation(
    address: str,
    conversation: Conversation,
    model: ServedModel,
    bob: User,
    charlie: User,
    elsewhere: Workspace,
) -> None:
    reply = say(conversation, model, "secret question", "secret answer")[1]
    path = address.format(c=conversation.id, m=reply.id)
    for user in (bob, charlie):
        client = Client()
        client.force_login(user)
        response = client.get(path)
        assert response.status_code == 404
        assert "secret" not in response.content.decode()
        missing = client.get(
            address.format(c="0" * 8 + str(conversation.id)[8:], m="0" * 8 + str(reply.id)[8:])
        )
        assert missing.status_code == 404
        assert squeezed(missing.content.decode()) == squeezed(response.content.decode())
    response = Client().get(path)
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")


def squeezed(page: str) -> str:
    return re.sub(r"\s+", " ", page)


def test_the_list_and_its_search_show_only_ones_own_conversations_in_this_workspace(
    hers: Client, conversation: Conversation, model: ServedModel, alice: User, bob: User, workspace: Workspace,
    elsewhere: Workspace, charlie: User,
) -> None:  # fmt: skip
    say(conversation, model, "When is high water?", "At noon, at new moon.")
    for user, place in ((bob, workspace), (charlie, elsewhere)):
        other = Conversation.objects.create(
            user=user, workspace=place, title="Not hers", updated_at=timezone.now()
        )
        say(other, model, "water moon tides", "water moon tides")
    for query in ("", "tides", "HIGH WATER", "new moon"):
        page = shown(hers.get("/c/list", {"q": query}))
        assert "About &lt;tides&gt;" in page
        assert "Not hers" not in page
    assert "Nothing found." in shown(hers.get("/c/list", {"q": "sunshine"}))


def test_without_a_login_every_page_leads_to_one(client: Client, alice: User) -> None:
    for path in ("/", "/c/list", "/c/00000000-0000-4000-8000-000000000000/"):
        assert client.get(path)["Location"].startswith("/accounts/login/")


def test_pages_change_nothing(hers: Client, conversation: Conversation) -> None:
    for path in ("/", "/c/list", f"/c/{conversation.id}/", f"/c/{conversation.id}/messages?before=1"):
        assert hers.post(path).status_code == 405


# --- The page ----------------------------------------------------------------------------------------------


def test_an_empty_page_says_what_it_is_for_and_offers_a_first_step(
    hers: Client, workspace: Workspace, model: ServedModel
) -> None:
    page = shown(hers.get("/"))
    assert "What would you like to talk about?" in page
    assert page.count("data-example=") == 4
    assert "Acme" in page


def test_a_page_says_what_keeps_the_site_from_answering(hers: Client, workspace: Workspace) -> None:
    assert "No model is installed yet." in shown(hers.get("/"))
    ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=1, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip
    assert "Nothing is here to answer right now." in shown(hers.get("/"))
    worker = Worker.objects.create(
        hostname="h", pid=1, state="broken", error="demo.gguf is cut short.", lease_expires_at=timezone.now()
    )
    assert "Nothing is here" in shown(hers.get("/")), "a worker whose lease ran out is no worker"
    Worker.objects.update(lease_expires_at=timezone.now() + timedelta(minutes=1))
    assert "demo.gguf is cut short." in shown(hers.get("/"))
    worker.state = Worker.State.LOADING
    worker.save(update_fields=["state"])
    assert "The model is being loaded." in shown(hers.get("/"))
    worker.state = Worker.State.READY
    worker.save(update_fields=["state"])
    assert 'id="obstacle"' not in shown(hers.get("/"))


def test_a_conversation_shows_what_was_said_and_the_model_that_answered(
    hers: Client, conversation: Conversation, model: ServedModel
) -> None:
    question, reply = say(conversation, model, "a <b>\n  *plain*", "**bold** <script>alert(1)</script>")
    page = shown(hers.get(f"/c/{conversation.id}/"))
    assert '<div class="bubble" dir="auto">a &lt;b&gt;\n  *plain*</div>' in page
    assert "<strong>bold</strong> &lt;script&gt;" in page
    assert f'data-message="{question.id}"' in page
    assert f'data-message="{reply.id}"' in page
    assert ">demo</span>" in page
    assert "<title>About &lt;tides&gt; · Flywheel</title>" in page


def test_a_page_has_no_inline_script_or_style_and_its_policy_forbids_them(
    hers: Client, conversation: Conversation, model: ServedModel
) -> None:
    say(conversation, model, "hi", "| a |\n|:-:|\n| $x$ |\n\n```py\nx\n```")
    response = hers.get(f"/c/{conversation.id}/")
    page = shown(response)
    assert not re.search(r"<[^>]*\s(style|on\w+)=", page)
    for attributes in re.findall(r"<script([^>]*)>", page):
        assert "src=" in attributes or 'type="application/json"' in attributes
    assert "<style" not in page
    policy = response["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("fields", "sentence", "has_retry_button"),
    [
        ({"state": State.CANCELLED}, "You stopped this reply.", False),
        ({"state": State.FAILED, "error_message": "Out of memory."}, "Out of memory.", True),
        ({"state": State.REFUSED, "error_message": "312 tokens too long."}, "312 tokens too long.", True),
        ({"state": State.FAILED}, "Something went wrong on our side.", True),
        ({"state": State.INTERRUPTED}, "This reply broke off.", True),
        ({"finish_reason": "length"}, "reached its length limit", False),
        ({"text": ""}, "The model had nothing to say.", True),
    ],
)
def test_a_reply_that_did_not_simply_end_says_why_and_keeps_its_text(
    fields: dict[str, Any],
    sentence: str,
    has_retry_button: bool,
    hers: Client,
    conversation: Conversation,
    model: ServedModel,
) -> None:
    reply = say(conversation, model, "hi", "the beginning", **fields)[1]
    article = render_message(reply, conversation)
    assert sentence in article
    assert ("Try again</button>" in article) is has_retry_button
    assert ("the beginning" in article) is ("text" not in fields)


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_a_growing_reply_is_an_empty_place_for_the_socket_to_fill(
    state: str, conversation: Conversation, model: ServedModel
) -> None:
    reply = say(conversation, model, "hi", "", state=state, attempt=2)[1]
    article = render_message(reply, conversation)
    assert f'data-state="{state}" data-attempt="2"' in article
    assert 'data-blocks="0"><div class="open"></div>' in article
    assert "actions" not in article


def test_copying_an_answer_gets_what_the_model_wrote(
    hers: Client, conversation: Conversation, model: ServedModel
) -> None:
    text = "**bold** <b> $x$\n\n- 你好"
    reply = say(conversation, model, "hi", text)[1]
    response = hers.get(f"/c/message/{reply.id}/source")
    assert shown(response) == text
    assert response["Content-Type"] == "text/plain; charset=utf-8"


# --- Long conversations and long lists ---------------------------------------------------------------------


def test_earlier_messages_come_page_by_page_until_the_first(
    hers: Client, conversation: Conversation, model: ServedModel
) -> None:
    say(conversation, model, *(f"turn {n}." for n in range(120)))
    page = shown(hers.get(f"/c/{conversation.id}/"))
    seen: list[str] = []
    while True:
        seen = re.findall(r"turn (\d+)\.", page) + seen
        earlier = re.search(r'data-earlier="(\d+)"', page)
        if earlier is None:
            break
        page = shown(hers.get(f"/c/{conversation.id}/messages", {"before": earlier[1]}))
        assert "<html" not in page
    assert [int(n) for n in seen] == list(range(120))


@pytest.mark.parametrize("before", ["", "x", "-1", "1.5", "²", "9" * 40])
def test_an_address_with_a_bad_position_is_a_sentence(
    before: str, hers: Client, conversation: Conversation
) -> None:
    response = hers.get(f"/c/{conversation.id}/messages", {"before": before})
    assert response.status_code == 400
    assert "This address is incomplete." in response.content.decode()


@pytest.mark.parametrize("before", ["yesterday", "2026-01-01T00:00:00", "\x00"])
def test_an_address_with_a_bad_date_is_a_sentence(before: str, hers: Client, workspace: Workspace) -> None:
    assert hers.get("/c/list", {"before": before}).status_code == 400


def test_a_conversation_of_1000_messages_opens_quickly(
    hers: Client, conversation: Conversation, model: ServedModel
) -> None:
    answer = "Some **text** with `code`.\n\n```python\nprint({n})\n```\n\n- one\n- two {n}\n\nAnd $x^{n}$."
    say(
        conversation,
        model,
        *((answer.replace("{n}", str(n)) if n % 2 else f"Question {n}?") for n in range(1000)),
    )
    took = []  # of a processor: others compute meanwhile
    for _ in range(4):
        started = process_time()
        page = shown(hers.get(f"/c/{conversation.id}/"))
        took.append(process_time() - started)
    assert page.count("<article") == 51  # and the template for a message on its way
    assert min(took) < 0.2, took


def test_the_list_goes_on_where_it_stopped(hers: Client, alice: User, workspace: Workspace) -> None:
    now = timezone.now()
    Conversation.objects.bulk_create(
        Conversation(user=alice, workspace=workspace, title=f"talk {n}.", updated_at=now - timedelta(hours=n))
        for n in range(100)
    )
    page, seen = shown(hers.get("/")), []
    while True:
        seen += [int(n) for n in re.findall(r">talk (\d+)\.<", page)]
        more = re.search(r'data-more="([^"]+)"', page)
        if more is None:
            break
        page = shown(hers.get("/c/list", {"before": more[1]}))
    assert seen == list(range(100))


def test_conversations_are_grouped_by_the_readers_days(alice: User, workspace: Workspace) -> None:
    now = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
    ages = {"a": 0.5, "b": 2, "c": 26, "d": 24 * 5, "e": 24 * 20, "f": 24 * 60, "g": 24 * 61}
    talks = [
        Conversation(user=alice, workspace=workspace, title=title, updated_at=now - timedelta(hours=age))
        for title, age in ages.items()
    ]
    with timezone.override("UTC"):
        groups = group_by_day(talks, now=now)
    assert [(g.key, "".join(c.title for c in g.conversations)) for g in groups] == [
        ("today", "a"), ("yesterday", "b"), ("week", "cd"), ("month", "e"), ("2026-09", "fg"),
    ]  # fmt: skip
    with timezone.override("America/New_York"):  # there it is still the evening of the 22nd
        groups = group_by_day(talks, now=now)
    assert [g.key for g in groups][:2] == ["today", "yesterday"]
    assert [c.title for c in groups[0].conversations] == ["a", "b"]


def test_a_list_entry_is_escaped_and_leads_to_its_conversation(conversation: Conversation) -> None:
    item = render_list_item(conversation)
    assert f'href="/c/{conversation.id}/"' in item
    assert "About &lt;tides&gt;" in item
    assert "<tides>" not in item


# --- The cache ---------------------------------------------------------------------------------------------


def test_a_finished_answer_is_rendered_once(
    hers: Client, conversation: Conversation, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(conversation, model, "hi", "**once**")
    first = shown(hers.get(f"/c/{conversation.id}/"))
    monkeypatch.setattr("webapp.chat.rendering.render", lambda source: pytest.fail("rendered again"))
    assert "<strong>once</strong>" in first
    assert "<strong>once</strong>" in shown(hers.get(f"/c/{conversation.id}/"))


def test_a_page_opens_when_the_cache_is_away_and_the_log_says_so_once_a_minute(
    hers: Client, conversation: Conversation, model: ServedModel, settings: Any, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    nobody_listens = "redis://127.0.0.1:1"
    settings.CACHES = {
        "default": {"BACKEND": "webapp.core.cache.SteadyRedisCache", "LOCATION": nobody_listens}
    }
    said = "log-in limits are each process's own while the broker is away"
    monkeypatch.setattr(steady, "_said_at", float("-inf"))
    say(conversation, model, "hi", "**still here**")
    for count, now in ((1, 1000.0), (1, 1059.0), (2, 1060.0)):
        monkeypatch.setattr(steady, "monotonic", lambda now=now: now)
        assert "<strong>still here</strong>" in shown(hers.get(f"/c/{conversation.id}/"))
        assert caplog.text.count(said) == count


# --- What the browser remembers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cookie", "attribute"), [("dark", ' data-theme="dark"'), ('"><script>', ""), ("", "")]
)
def test_the_chosen_colours_are_there_with_the_first_paint(
    cookie: str, attribute: str, hers: Client, workspace: Workspace
) -> None:
    hers.cookies["flywheel_theme"] = cookie
    assert f'<html lang="en"{attribute}>' in shown(hers.get("/"))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Nowhere/Land", "../../etc/passwd", "", "\x00"])
def test_any_time_zone_cookie_is_survived(zone: str, hers: Client, conversation: Conversation) -> None:
    hers.cookies["flywheel_timezone"] = zone
    assert "Today" in shown(hers.get("/"))
