"""The chat page's other end, played by a test: pages from the real site, a socket whose server is the test.

What the server really sends is tested elsewhere; here it is what the page makes of it, also of what is rare.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from django.utils import timezone
from playwright.sync_api import Page, WebSocketRoute

from inference.models import Generation, ServedModel
from webapp.accounts.models import User, Workspace
from webapp.chat.models import Conversation, Message
from webapp.chat.rendering import render_list_item, render_message

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


def replies(stage: Stage) -> Any:
    return stage.page.locator(".message-assistant")
