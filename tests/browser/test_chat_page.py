"""The chat page in a real Chromium: pages from the real site, its socket's other end played by the test.

What the server really sends is tested elsewhere; here it is what the page makes of it, also of what is rare.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from inference.models import Generation, ServedModel
from tests.browser.conftest import complaints_of
from webapp.accounts.models import User, Workspace
from webapp.chat.models import Conversation, Message
from webapp.chat.rendering import render_list_item, render_message

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
State = Generation.State


class Server:
    """The other end of the page's socket: notes what comes, sends what the test says."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.route: WebSocketRoute | None = None
        self.connections = 0
        self.refuses = False

    def connect(self, route: WebSocketRoute) -> None:
        if self.refuses:
            route.close()
            return
        self.connections += 1
        self.route = route
        route.on_message(lambda data: self.received.append(json.loads(data)))

    def send(self, **frame: Any) -> None:
        assert self.route is not None
        self.route.send(json.dumps(frame))

    def drop(self, code: int = 1012) -> None:
        assert self.route is not None
        self.route.close(code=code, reason="")

    def commands(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.received if frame["type"] == kind]


class Stage:
    """Alice's browser, her rows, and the server's end of her socket."""

    def __init__(
        self, page: Page, server: Server, user: User, workspace: Workspace, model: ServedModel
    ) -> None:
        self.page, self.server, self.user, self.workspace, self.model = page, server, user, workspace, model

    def conversation(self, *turns: str, title: str = "Tides", **last: Any) -> Conversation:
        conversation = Conversation.objects.create(
            user=self.user, workspace=self.workspace, title=title, updated_at=timezone.now()
        )
        self.say(conversation, *turns, **last)
        return conversation

    def say(self, conversation: Conversation, *turns: str, **last: Any) -> list[Message]:
        start = conversation.messages.count()
        messages, generations, now = [], [], timezone.now()
        for position, text in enumerate(turns, start):
            generation = None
            if position % 2:
                fields = {"state": State.COMPLETE, "text": text, "finish_reason": "stop"}
                fields |= last if position == start + len(turns) - 1 else {}
                generation = Generation(
                    workspace=self.workspace,
                    model=self.model,
                    messages=[],
                    seed=1,
                    deadline=now,
                    sent_at=now,
                    **fields,
                )
                generations.append(generation)
            role = Message.Role.ASSISTANT if generation else Message.Role.USER
            user_text = "" if generation else text
            messages.append(
                Message(
                    conversation=conversation,
                    position=position,
                    role=role,
                    text=user_text,
                    generation=generation,
                )
            )
        Generation.objects.bulk_create(generations)
        return Message.objects.bulk_create(messages)

    def open(self, conversation: Conversation | None = None) -> None:
        before = self.server.connections
        self.page.goto("/" if conversation is None else f"/c/{conversation.id}/")
        self.until(lambda: self.server.connections > before, "the page connects")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain until {what}"
            self.page.wait_for_timeout(10)

    def next_send(self, count: int = 1) -> dict[str, Any]:
        self.until(lambda: len(self.server.commands("send")) >= count, "a message is sent")
        return self.server.commands("send")[-1]

    def accept(self, frame: dict[str, Any]) -> tuple[Conversation, Message]:
        """Stores what the page sent and answers as the site does; returns the conversation and the new reply."""
        if frame["conversation"] is None:
            conversation = self.conversation(title=frame["text"][:30])
        else:
            conversation = Conversation.objects.get(id=frame["conversation"])
        message, reply = self.say(conversation, frame["text"], "", state=State.QUEUED)
        self.server.send(
            type="accepted", client_id=frame["client_id"], **self.news(conversation, [message, reply])
        )
        return conversation, reply

    def news(self, conversation: Conversation, messages: list[Message]) -> dict[str, Any]:
        return {
            "conversation": str(conversation.id),
            "title": conversation.title,
            "html": "".join(render_message(message, conversation) for message in messages),
            "item": render_list_item(conversation),
        }

    def finish(self, reply: Message, text: str, state: str = State.COMPLETE, **fields: Any) -> None:
        Generation.objects.filter(id=reply.generation_id).update(state=state, text=text, **fields)
        fresh = Message.objects.select_related("generation__model", "conversation").get(id=reply.id)
        html = render_message(fresh, fresh.conversation)
        self.server.send(type="done", message=str(reply.id), state=state, html=html)


@pytest.fixture
def stage(
    live_server: Any,
    alice: User,
    workspace: Workspace,
    browser: Browser,
    settings: Any,
) -> Iterator[Stage]:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    model = ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=2048, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip
    client = Client()
    client.force_login(alice)
    context = browser.new_context(
        base_url=live_server.url,
        viewport={"width": 1200, "height": 800},
        permissions=["clipboard-read", "clipboard-write"],
    )
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": live_server.url}])
    page = context.new_page()
    server = Server()
    page.route_web_socket("**/ws/chat/", server.connect)
    complaints = complaints_of(page)
    yield Stage(page, server, alice, workspace, model)
    context.close()
    assert [said for said in complaints if "WebSocket" not in said and "net::ERR" not in said] == []


def replies(stage: Stage) -> Any:
    return stage.page.locator(".message-assistant")


# --- Saying something --------------------------------------------------------------------------------------


def test_a_first_message_is_shown_at_once_and_becomes_a_conversation_without_a_new_page(stage: Stage) -> None:
    stage.open()
    stage.page.evaluate("window.samePage = true")
    stage.page.locator("#draft").fill("When is high water?")
    stage.page.keyboard.press("Enter")
    expect(stage.page.locator(".bubble")).to_have_text("When is high water?")
    expect(stage.page.locator("#draft")).to_have_value("")
    expect(stage.page.locator("#welcome")).to_be_hidden()
    frame = stage.next_send()
    assert frame["conversation"] is None
    conversation, reply = stage.accept(frame)
    stage.page.wait_for_url(f"**/c/{conversation.id}/")
    expect(stage.page.locator("#title")).to_have_text("When is high water?")
    expect(
        stage.page.locator(f'#conversations [data-conversation="{conversation.id}"] [aria-current]')
    ).to_be_visible()
    expect(stage.page.locator(".bubble")).to_have_count(1)
    expect(replies(stage).locator(".thinking")).to_be_visible()
    stage.server.send(
        type="stream", message=str(reply.id), attempt=1, base=0, blocks=[], open="", text="At noon."
    )
    expect(replies(stage).locator(".reply")).to_have_text("At noon.")
    expect(replies(stage).locator(".thinking")).to_be_hidden()
    stage.finish(reply, "At noon.")
    expect(replies(stage).locator("[data-copy-answer]")).to_be_visible()
    expect(replies(stage).locator(".block")).to_have_text("At noon.")
    assert stage.page.evaluate("window.samePage") is True
    # The next message goes to the conversation that has begun.
    stage.page.locator("#draft").fill("And low water?")
    stage.page.keyboard.press("Enter")
    assert stage.next_send(2)["conversation"] == str(conversation.id)


def test_an_example_is_put_into_the_composer(stage: Stage) -> None:
    stage.open()
    stage.page.locator(".example").first.click()
    expect(stage.page.locator("#draft")).to_be_focused()
    assert stage.page.locator("#draft").input_value() == stage.page.locator(".example").first.get_attribute(
        "data-example"
    )


def test_enter_sends_but_not_with_shift_nor_while_a_word_is_composed_nor_when_empty(stage: Stage) -> None:
    stage.open()
    draft = stage.page.locator("#draft")
    draft.fill("   ")
    stage.page.keyboard.press("Enter")
    draft.fill("one")
    stage.page.keyboard.press("Shift+Enter")
    stage.page.keyboard.type("two")
    expect(draft).to_have_value("one\ntwo")
    draft.evaluate(
        "e => e.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    assert stage.server.commands("send") == []
    stage.page.keyboard.press("Enter")
    assert stage.next_send()["text"] == "one\ntwo"
    assert len(stage.server.commands("send")) == 1


def test_send_becomes_stop_while_an_answer_grows_and_stop_names_it(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    send, stop = stage.page.locator(".composer .send"), stage.page.locator(".composer .stop")
    expect(stop).to_be_visible()
    expect(send).to_be_hidden()
    stage.page.locator("#draft").fill("not yet")
    stage.page.keyboard.press("Enter")
    expect(stage.page.locator("#draft")).to_have_value("not yet")
    stop.click()
    stage.until(lambda: stage.server.commands("stop"), "stop is sent")
    assert stage.server.commands("stop")[0]["message"] == str(reply.id)
    stage.finish(reply, "So fa", State.CANCELLED)
    expect(send).to_be_visible()
    expect(stage.page.get_by_text("You stopped this reply.")).to_be_visible()
    assert stage.server.commands("send") == []


def test_a_draft_outlives_the_page(stage: Stage) -> None:
    conversation = stage.conversation("hi", "hello")
    stage.open(conversation)
    stage.page.locator("#draft").fill("half a thou")
    stage.open()
    expect(stage.page.locator("#draft")).to_have_value("")
    stage.open(conversation)
    expect(stage.page.locator("#draft")).to_have_value("half a thou")


def test_a_paste_of_a_megabyte_freezes_nothing_and_is_refused_with_a_sentence(stage: Stage) -> None:
    stage.open()
    stage.page.evaluate("navigator.clipboard.writeText('word '.repeat(200_000))")
    stage.page.locator("#draft").focus()
    started = time.monotonic()
    stage.page.keyboard.press("Control+V")
    expect(stage.page.locator("#composer-note")).to_contain_text("1,000,000 characters")
    stage.page.keyboard.press("Enter")
    stage.page.keyboard.type("abc")
    assert time.monotonic() - started < 5
    assert stage.page.locator("#draft").input_value().endswith("abc")
    assert stage.server.commands("send") == []


# --- Losing the connection ---------------------------------------------------------------------------------


def test_a_message_that_was_not_accepted_is_sent_again_as_the_same_one(stage: Stage) -> None:
    stage.open()
    stage.page.locator("#draft").fill("Is anybody there?")
    stage.page.keyboard.press("Enter")
    first = stage.next_send()
    stage.server.drop()
    again = stage.next_send(2)
    assert (again["client_id"], again["text"]) == (first["client_id"], "Is anybody there?")
    stage.page.reload()
    expect(stage.page.locator(".bubble")).to_have_text("Is anybody there?")
    assert stage.next_send(3)["client_id"] == first["client_id"]
    conversation, _reply = stage.accept(first)
    stage.page.wait_for_url(f"**/c/{conversation.id}/")
    expect(stage.page.locator(".bubble")).to_have_count(1)
    stage.server.drop()
    stage.until(lambda: stage.server.commands("open"), "the page opens its conversation again")
    assert len(stage.server.commands("send")) == 3


def test_a_lost_connection_is_a_slim_line_that_goes_by_itself(stage: Stage) -> None:
    stage.open()
    line = stage.page.locator("#connection")
    expect(line).to_be_hidden()
    stage.server.refuses = True
    stage.server.drop()
    expect(line).to_be_visible()
    expect(line).to_contain_text("Reconnecting")
    stage.server.refuses = False
    expect(line).to_be_hidden(timeout=20_000)


def test_a_reconnecting_page_says_what_it_has_and_gets_the_rest(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    stage.until(lambda: stage.server.commands("open"), "the conversation is opened")
    assert stage.server.commands("open")[0] == {
        "type": "open",
        "conversation": str(conversation.id),
        "have": [{"message": str(reply.id), "blocks": 0, "attempt": 0}],
        "after": 1,
    }
    about = {"type": "stream", "message": str(reply.id), "attempt": 1}
    stage.server.send(**about, base=0, blocks=["<p>one</p>", "<p>two</p>"], open="<p>thr</p>", text="ee")
    expect(replies(stage).locator(".open")).to_have_text("three")
    stage.page.evaluate("document.querySelectorAll('.block').forEach(b => (b.kept = true))")
    stage.server.drop()
    stage.until(lambda: len(stage.server.commands("open")) == 2, "the conversation is opened again")
    assert stage.server.commands("open")[1]["have"] == [{"message": str(reply.id), "blocks": 2, "attempt": 1}]
    stage.server.send(**about, base=2, blocks=["<p>three</p>"], open="<p>four</p>")
    expect(replies(stage).locator(".reply")).to_have_text("onetwothreefour", use_inner_text=False)
    assert stage.page.evaluate("[...document.querySelectorAll('.block')].map(b => b.kept ?? false)") == [
        True, True, False,
    ]  # fmt: skip


def test_when_the_login_ends_the_page_leads_to_the_form(stage: Stage) -> None:
    stage.open()
    stage.page.context.clear_cookies()
    stage.server.drop(4401)
    stage.page.wait_for_url("**/accounts/login/**")


# --- A reply that grows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("open_html", "text", "place", "reads"),
    [
        ("<p>Hello</p> ", "world", ".open p", "Hello world"),
        ("<p>a <strong>b</strong></p>", " c", ".open p", "a b c"),
        ("<ul>\n<li>one</li>\n<li>two</li>\n</ul>", " and a half", ".open li:last-child", "two and a half"),
        ("<h3>Ti</h3>", "tle", ".open h3", "Title"),
        (
            '<figure class="code"><figcaption></figcaption><pre><code>a\nb</code></pre></figure>\n',
            "c",
            ".open code",
            "a\nb\nc",
        ),
        ("", "Begin", ".open", "Begin"),
        ("<hr>", "after", ".open", "after"),
        ("", "<b>&amp;</b>", ".open", "<b>&amp;</b>"),
    ],
)
def test_new_text_goes_on_where_the_open_block_ended(
    open_html: str, text: str, place: str, reads: str, stage: Stage
) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    stage.server.send(
        type="stream", message=str(reply.id), attempt=1, base=0, blocks=[], open=open_html, text=""
    )
    for character in text:
        stage.server.send(type="stream", message=str(reply.id), attempt=1, text=character)
    expect(stage.page.locator(".open .tail")).to_have_text(text.strip(), use_inner_text=False)
    assert (stage.page.locator(place).text_content() or "").strip() == reads


def test_finished_blocks_are_never_touched_again_not_even_at_the_end(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    about = {"type": "stream", "message": str(reply.id), "attempt": 1}
    stage.server.send(**about, base=0, blocks=["<p>one</p>\n"], open="<p>tw</p>")
    expect(stage.page.locator(".block")).to_have_count(1)
    stage.page.evaluate("document.querySelector('.block').kept = true")
    stage.server.send(**about, text="o")
    stage.server.send(**about, blocks=["<p>two</p>\n"], open="<p>three</p>")
    expect(stage.page.locator(".reply")).to_have_text("one two three")
    stage.finish(reply, "one\n\ntwo\n\nthree and the end", attempt=1)
    expect(stage.page.locator(".block")).to_have_text(["one", "two", "three and the end"])
    expect(stage.page.locator(".open")).to_be_empty()
    assert stage.page.evaluate("document.querySelector('.block').kept") is True


def test_a_thousand_frames_change_the_page_once_for_each_frame_of_the_screen(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    about = {"type": "stream", "message": str(reply.id), "attempt": 1}
    stage.server.send(**about, base=0, blocks=[], open="<p>0</p>")
    stage.page.evaluate("""() => {
        window.frames_ = 0; window.writes = 0;
        const count = () => { window.frames_++; requestAnimationFrame(count); };
        requestAnimationFrame(count);
        new MutationObserver(() => window.writes++).observe(
            document.querySelector('.reply'), {childList: true, subtree: true, characterData: true});
    }""")
    for _ in range(1000):
        stage.server.send(**about, text="x")
    expect(stage.page.locator(".tail")).to_have_text("x" * 1000)
    writes, frames = stage.page.evaluate("[window.writes, window.frames_]")
    assert 0 < writes <= frames + 1


def test_a_finished_answer_is_announced_once_and_not_while_it_grows(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    stage.page.evaluate("""() => {
        window.spoken = [];
        const live = document.getElementById('live');
        new MutationObserver(() => live.textContent && window.spoken.push(live.textContent))
            .observe(live, {childList: true, characterData: true, subtree: true});
    }""")
    for word in ("High ", "water ", "is at noon."):
        stage.server.send(type="stream", message=str(reply.id), attempt=1, text=word)
    expect(stage.page.locator(".open")).to_have_text("High water is at noon.")
    assert stage.page.evaluate("window.spoken") == []
    assert stage.page.locator(".conversation [aria-live]").count() == 0
    stage.finish(reply, "High water is at noon.")
    expect(stage.page.locator("#live")).to_have_text("Answer finished. High water is at noon.")
    assert len(stage.page.evaluate("window.spoken")) == 1


def test_the_page_follows_only_a_reader_who_is_at_the_end(stage: Stage) -> None:
    conversation = stage.conversation(*(f"turn {n}\n" * 8 for n in range(11)), "", state=State.RUNNING)
    reply = conversation.messages.get(position=11)
    stage.open(conversation)
    at_end = (
        "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 2)(document.getElementById('conversation'))"
    )
    stage.until(lambda: stage.page.evaluate(at_end), "the page opens at its end")
    grow = {"type": "stream", "message": str(reply.id), "attempt": 1, "text": "and more\n" * 30}
    stage.server.send(**grow)
    expect(stage.page.locator(".tail")).to_be_visible()
    stage.until(lambda: stage.page.evaluate(at_end), "the page follows")
    expect(stage.page.locator("#jump")).to_be_hidden()
    stage.page.locator("#conversation").evaluate("e => e.scrollTop -= 500")
    expect(stage.page.locator("#jump")).to_be_visible()
    before = stage.page.locator("#conversation").evaluate("e => e.scrollTop")
    stage.server.send(**grow)
    stage.until(lambda: len(stage.page.locator(".tail").text_content() or "") > 500, "text has grown")
    assert stage.page.locator("#conversation").evaluate("e => e.scrollTop") == before
    stage.page.locator("#jump").click()
    stage.until(lambda: stage.page.evaluate(at_end), "the page jumps to the latest")
    expect(stage.page.locator("#jump")).to_be_hidden()


# --- When something fails ----------------------------------------------------------------------------------


def test_a_refused_message_says_why_and_keeps_every_word(stage: Stage) -> None:
    stage.open()
    stage.page.locator("#draft").fill("precious words")
    stage.page.keyboard.press("Enter")
    frame = stage.next_send()
    stage.server.send(
        type="error",
        code="busy",
        client_id=frame["client_id"],
        message="Too many replies are waiting right now.",
    )
    expect(stage.page.get_by_text("Too many replies are waiting right now.")).to_be_visible()
    expect(stage.page.locator(".bubble")).to_have_text("precious words")
    stage.page.reload()
    expect(stage.page.get_by_text("Too many replies are waiting right now.")).to_be_visible()
    stage.page.get_by_role("button", name="Send again").click()
    assert stage.next_send(2)["client_id"] == frame["client_id"]
    stage.server.send(type="error", code="busy", client_id=frame["client_id"], message="Still too many.")
    stage.page.get_by_role("button", name="Edit").click()
    expect(stage.page.locator("#draft")).to_have_value("precious words")
    expect(stage.page.locator(".bubble")).to_have_count(0)


def test_a_failed_reply_can_be_tried_again_in_its_place(stage: Stage) -> None:
    conversation = stage.conversation("hi", "half", state=State.INTERRUPTED, attempt=3)
    reply = conversation.messages.get(position=1)
    stage.open(conversation)
    expect(stage.page.get_by_text("This reply broke off.")).to_be_visible()
    stage.page.get_by_role("button", name="Try again").click()
    stage.until(lambda: stage.server.commands("retry"), "retry is sent")
    assert stage.server.commands("retry")[0]["message"] == str(reply.id)
    stage.server.send(type="stream", message=str(reply.id), attempt=0, base=0, blocks=[], open="", text="")
    expect(stage.page.get_by_text("This reply broke off.")).to_have_count(0)
    expect(stage.page.locator(".thinking")).to_be_visible()
    expect(stage.page.locator(".composer .stop")).to_be_visible()
    stage.server.send(type="stream", message=str(reply.id), attempt=1, text="whole")
    stage.finish(reply, "whole", attempt=1)
    expect(stage.page.locator(".block")).to_have_text("whole")


# --- Several tabs ------------------------------------------------------------------------------------------


def test_what_another_tab_said_appears_here_once(stage: Stage) -> None:
    conversation, other = stage.conversation("hi", "hello"), stage.conversation("x", "y", title="Elsewhere")
    stage.open(conversation)
    new = stage.say(conversation, "from the other tab", "", state=State.QUEUED)
    for _ in range(2):
        stage.server.send(type="messages", **stage.news(conversation, new))
    foreign = stage.say(other, "not here", "", state=State.QUEUED)
    stage.server.send(type="messages", **stage.news(other, foreign))
    stage.server.send(type="title", conversation=str(conversation.id), title="<Named>")
    expect(stage.page.locator("#title")).to_have_text("<Named>")
    expect(stage.page).to_have_title("<Named> · Flywheel")
    expect(stage.page.locator(".bubble")).to_have_text(["hi", "from the other tab"])
    expect(stage.page.locator("#conversations a").first).to_have_text("Elsewhere")
    expect(stage.page.locator("#conversations a")).to_have_count(2)
    stage.server.send(type="deleted", conversation=str(conversation.id))
    stage.page.wait_for_url(lambda url: "/c/" not in url)


def test_renaming_and_deleting_go_through_a_small_dialog(stage: Stage) -> None:
    conversation = stage.conversation("hi", "hello", title="Old name")
    stage.open()
    item = stage.page.locator(f'[data-conversation="{conversation.id}"].rail-item')
    item.hover()
    item.get_by_role("button").click()
    name = stage.page.get_by_label("Name", exact=True)
    expect(name).to_have_value("Old name")
    name.fill("   ")
    stage.page.keyboard.press("Enter")
    expect(stage.page.get_by_role("alert").filter(has_text="needs a name")).to_be_visible()
    name.fill("New name")
    stage.page.keyboard.press("Enter")
    stage.until(lambda: stage.server.commands("rename"), "rename is sent")
    assert stage.server.commands("rename")[0]["title"] == "New name"
    stage.server.send(type="title", conversation=str(conversation.id), title="New name")
    expect(item.locator("a")).to_have_text("New name")
    item.hover()
    item.get_by_role("button").click()
    stage.page.get_by_role("button", name="Delete…").click()
    expect(stage.page.locator("dialog")).to_contain_text("New name")
    assert stage.server.commands("delete") == []
    stage.page.get_by_role("button", name="Delete", exact=True).click()
    stage.until(lambda: stage.server.commands("delete"), "delete is sent")
    stage.server.send(type="deleted", conversation=str(conversation.id))
    expect(item).to_have_count(0)


def test_search_finds_what_was_said(stage: Stage) -> None:
    stage.conversation("When is high water?", "At noon.", title="Tides")
    stage.conversation("hi", "hello", title="Greetings")
    stage.open()
    stage.page.get_by_label("Search conversations").fill("noon")
    expect(stage.page.locator("#conversations a")).to_have_text(["Tides"])
    stage.page.get_by_label("Search conversations").fill("")
    expect(stage.page.locator("#conversations a")).to_have_count(2)


def test_what_is_sent_before_the_scripts_are_there_stays_in_the_box(stage: Stage) -> None:
    stage.page.route("**/*.js", lambda route: route.abort())
    stage.page.goto("/")
    stage.page.get_by_label("Your message").fill("Hello there")
    stage.page.locator(".send").click(force=True)
    stage.page.wait_for_timeout(100)
    expect(stage.page.get_by_label("Your message")).to_have_value("Hello there")


def test_a_reply_that_stands_still_shows_that_it_is_waited_for(stage: Stage) -> None:
    conversation = stage.conversation("hi", "", state=State.RUNNING)
    reply = str(conversation.messages.get(position=1).id)
    stage.open(conversation)
    stage.server.send(type="stream", message=reply, attempt=1, base=0, blocks=[], open="", text="Once upon")
    dots = stage.page.locator(".thinking")
    expect(stage.page.locator(".reply")).to_contain_text("Once upon")
    expect(dots).not_to_be_visible()
    expect(dots).to_be_visible()
    stage.server.send(type="stream", message=reply, attempt=1, text=" a time")
    expect(dots).not_to_be_visible()


def test_a_message_refused_as_too_long_goes_back_into_the_box(stage: Stage) -> None:
    said = "This is 1840 tokens too long: it has 10031, and the model reads at most 8191."
    refused = {"state": State.REFUSED, "error_code": "prompt_too_long", "error_message": said}
    stage.open(stage.conversation("a long message", "", **refused))
    expect(stage.page.locator(".status-error")).to_contain_text("1,840 tokens too long: it has 10,031")
    stage.page.get_by_role("button", name="Edit your message").click()
    expect(stage.page.get_by_label("Your message")).to_have_value("a long message")
    expect(stage.page.get_by_label("Your message")).to_be_focused()


# --- Long conversations, narrow screens, keyboards ---------------------------------------------------------


def test_a_thousand_messages_open_within_a_second_and_earlier_ones_come_on_scrolling_up(stage: Stage) -> None:
    text = "Some **text** with `code`.\n\n```python\nprint(1)\n```\n\n- one\n- two"
    conversation = stage.conversation(*(f"turn {n}" if n % 2 == 0 else f"{text} {n}" for n in range(1000)))
    stage.open(conversation)
    stage.page.reload()
    interactive = stage.page.evaluate(
        "new Promise(done => requestIdleCallback(() => done(performance.now()), {timeout: 5000}))"
    )
    assert interactive < 1000
    expect(stage.page.locator(".message")).to_have_count(50)
    scroller = stage.page.locator("#conversation")
    mark = stage.page.locator('[data-position="950"]')
    scroller.evaluate("e => (e.scrollTop = 300)")
    before = mark.bounding_box()
    stage.until(lambda: stage.page.locator(".message").count() == 100, "earlier messages are loaded")
    after = mark.bounding_box()
    assert before
    assert after
    assert abs(before["y"] - after["y"]) < 2
    assert stage.page.locator(".message").first.get_attribute("data-position") == "900"


@pytest.mark.parametrize("width", [320, 360, 768, 1440])
def test_nothing_is_wider_than_the_screen(width: int, stage: Stage) -> None:
    wide = " | ".join(["column"] * 20)
    table = f"| {wide} |\n{'|---' * 20}|"
    answer = f"{'y' * 500}\n\n`{'z' * 300}`\n\n{table}\n\n```\n{'code ' * 100}\n```\n\n$$ {'x+' * 200}x $$"
    conversation = stage.conversation("x" * 400, answer, title="w" * 120)
    stage.page.set_viewport_size({"width": width, "height": 700})
    stage.open(conversation)
    for scroller in ("document.documentElement", "document.getElementById('conversation')"):
        assert stage.page.evaluate(f"{scroller}.scrollWidth - {scroller}.clientWidth") <= 0


def test_on_a_phone_the_rail_is_a_drawer_that_holds_the_focus_until_it_is_closed(stage: Stage) -> None:
    stage.page.set_viewport_size({"width": 360, "height": 740})
    stage.conversation("hi", "hello")
    stage.open()
    opener = stage.page.get_by_role("button", name="Show conversations")
    rail = stage.page.locator("#rail")
    expect(rail).not_to_be_visible()
    assert opener.get_attribute("aria-expanded") == "false"
    opener.click()
    expect(rail).to_be_visible()
    assert opener.get_attribute("aria-expanded") == "true"
    for _ in range(12):
        stage.page.keyboard.press("Tab")
        assert stage.page.evaluate("!document.getElementById('main').contains(document.activeElement)")
    stage.page.keyboard.press("Escape")
    expect(rail).not_to_be_visible()
    expect(opener).to_be_focused()


def test_chosen_colours_stay_chosen(stage: Stage) -> None:
    stage.open()
    light = stage.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    stage.page.locator(".rail-foot summary").click()
    stage.page.get_by_role("button", name="Dark").click()
    expect(stage.page.locator("html")).to_have_attribute("data-theme", "dark")
    stage.page.reload()
    expect(stage.page.locator("html")).to_have_attribute("data-theme", "dark")
    assert stage.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != light


def test_code_and_answers_can_be_copied(stage: Stage) -> None:
    text = "Look:\n\n```python\nprint('**x**')\n```"
    stage.open(stage.conversation("hi", text))
    stage.page.get_by_role("button", name="Copy code").click()
    expect(stage.page.locator(".copy")).to_have_attribute("data-copied", "")
    assert stage.page.evaluate("navigator.clipboard.readText()") == "print('**x**')\n"
    stage.page.get_by_role("button", name="Copy", exact=True).click()
    expect(stage.page.locator("[data-copy-answer]")).to_have_attribute("data-copied", "")
    assert stage.page.evaluate("navigator.clipboard.readText()") == text
