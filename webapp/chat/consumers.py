"""The chat's websocket: commands in, frames out, as docs/architecture.md lists them. Thin: services write, access
reads, live streams."""

from __future__ import annotations

import functools
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from django.utils import translation
from django.utils.translation import gettext as _

from inference.models import Generation
from webapp.accounts.consumers import AuthenticatedConsumer
from webapp.chat import access, services
from webapp.chat.live import LiveHub, Watcher
from webapp.chat.models import Conversation, Message
from webapp.chat.notify import tell_tabs
from webapp.chat.rendering import render_list_item, render_message
from webapp.core.errors import NotFound, UserError

# A page shows at most this many unfinished replies, and names no more of them.
_MAX_HAVE = 50


class ChatConsumer(AuthenticatedConsumer):
    """One open page."""

    async def connected(self) -> None:
        self.watcher = Watcher(self.send_frame)
        self.opened: UUID | None = None

    async def disconnect(self, code: int) -> None:
        if hasattr(self, "watcher"):
            self.watcher.close()

    async def command(self, frame: dict[str, Any]) -> None:
        commands = {
            "open": self._open,
            "send": self._send,
            "stop": self._stop,
            "retry": self._retry,
            "rename": self._rename,
            "delete": self._delete,
            "ping": self._ping,
        }
        command = commands.get(frame["type"])
        await (command(frame) if command else super().command(frame))

    # --- commands -------------------------------------------------------------------------------------------
    async def _ping(self, frame: dict[str, Any]) -> None:
        await self.send_frame({"type": "pong"})

    async def _open(self, frame: dict[str, Any]) -> None:
        conversation_id = _uuid(frame, "conversation")
        have = {UUID(entry["message"]): entry for entry in _entries(frame)}
        after = frame.get("after")
        missed, unfinished, ended = await self._read_open(
            conversation_id, list(have), after if isinstance(after, int) else None
        )
        for reply in tuple(self.watcher.replies):
            reply.unwatch(self.watcher)
        self.opened = conversation_id
        if missed is not None:
            await self.send_frame(missed)
        for message_id, generation_id in unfinished:
            known = have.get(message_id, {})
            await self._watch(message_id, generation_id, _int(known, "blocks", 0), _int(known, "attempt", -1))
        for message_id in ended:
            await self.send_frame(await _done_frame(message_id, None, language=translation.get_language()))

    async def _send(self, frame: dict[str, Any]) -> None:
        client_id = _uuid(frame, "client_id")
        conversation_id = None if frame.get("conversation") is None else _uuid(frame, "conversation")
        sent, answer = await self._store(conversation_id, client_id, _str(frame, "text"))
        self.opened = sent.conversation.id
        await self.send_frame({"type": "accepted", "client_id": str(client_id), **answer})
        assert sent.reply.generation_id is not None
        await self._watch(sent.reply.id, sent.reply.generation_id)
        if sent.is_new:
            await tell_tabs(sent.conversation, {"type": "messages", **answer}, not_to=self.channel_name)

    async def _stop(self, frame: dict[str, Any]) -> None:
        await self._write_reply(services.stop_reply, _uuid(frame, "message"))

    async def _retry(self, frame: dict[str, Any]) -> None:
        reply = await self._write_reply(services.retry_reply, _uuid(frame, "message"))
        assert reply.generation_id is not None
        restarted = {"type": "retried", "conversation": str(reply.conversation_id), "message": str(reply.id)}
        await tell_tabs(reply.conversation, restarted | {"generation": str(reply.generation_id)})

    async def _rename(self, frame: dict[str, Any]) -> None:
        conversation = await self._write(
            services.rename_conversation, _uuid(frame, "conversation"), title=_str(frame, "title")
        )
        about = {"conversation": str(conversation.id), "title": conversation.title}
        await tell_tabs(conversation, {"type": "title", **about})

    async def _delete(self, frame: dict[str, Any]) -> None:
        conversation_id = _uuid(frame, "conversation")
        conversation = await self._write(services.delete_conversation, conversation_id)
        await tell_tabs(conversation, {"type": "deleted", "conversation": str(conversation_id)})

    # --- what other tabs and workers tell -------------------------------------------------------------------
    async def chat_frame(self, message: dict[str, Any]) -> None:
        frame = message["frame"]
        if message["not_to"] == self.channel_name or self.closing:
            return
        here = self.opened is not None and frame.get("conversation") == str(self.opened)
        if frame["type"] == "retried":
            if here:
                await self._watch(UUID(frame["message"]), UUID(frame["generation"]))
            return
        await self.send_frame(frame)
        if here and frame["type"] == "messages":
            await self._watch(UUID(frame["reply"]), UUID(frame["generation"]))
        elif here and frame["type"] == "deleted":
            self.opened = None
            for reply in tuple(self.watcher.replies):
                reply.unwatch(self.watcher)

    async def session_closed(self, message: dict[str, Any]) -> None:
        await super().session_closed(message)
        if self.closing and hasattr(self, "watcher"):
            self.watcher.close()

    async def _watch(self, message_id: UUID, generation_id: UUID, blocks: int = 0, attempt: int = -1) -> None:
        finish = functools.partial(_done_frame, language=translation.get_language())
        reply = LiveHub.current().reply(message_id, generation_id, finish)
        await reply.watch(self.watcher, blocks=blocks, attempt=attempt)

    # --- the database's thread ------------------------------------------------------------------------------
    @database_sync_to_async
    def _store(
        self, conversation_id: UUID | None, client_id: UUID, text: str
    ) -> tuple[services.Sent, dict[str, Any]]:
        sent = services.send_message(
            user=self.user,
            workspace=self.workspace,
            conversation_id=conversation_id,
            client_id=client_id,
            text=text,
        )
        return sent, _messages_frame(sent.conversation, [sent.message, sent.reply])

    @database_sync_to_async
    def _read_open(
        self, conversation_id: UUID, have: list[UUID], after: int | None
    ) -> tuple[dict[str, Any] | None, list[tuple[UUID, UUID]], list[UUID]]:
        """What a page that has `have` and everything up to position `after` lacks: messages that came since, replies
        that still grow (message, generation), and replies that have ended."""
        conversation = access.get_conversation(self.user, conversation_id)
        missed = None
        if after is not None:
            new = [m for m in access.list_messages(conversation) if m.position > after]
            if new:
                missed = {"type": "messages", **_messages_frame(conversation, new)}
        replies = conversation.messages.exclude(generation=None)
        growing = replies.exclude(generation__state__in=Generation.TERMINAL)
        unfinished = list(growing.values_list("id", "generation_id"))
        ended = replies.filter(id__in=have, generation__state__in=Generation.TERMINAL)
        return missed, unfinished, list(ended.values_list("id", flat=True))

    @database_sync_to_async
    def _write(self, service: Any, conversation_id: UUID, **arguments: Any) -> Conversation:
        conversation = access.get_conversation(self.user, conversation_id)
        service(conversation=conversation, **arguments)
        return conversation

    @database_sync_to_async
    def _write_reply(self, service: Any, message_id: UUID) -> Message:
        reply = access.get_reply(self.user, message_id)
        service(reply=reply)
        return reply


def _messages_frame(conversation: Conversation, messages: list[Message]) -> dict[str, Any]:
    frame = {
        "conversation": str(conversation.id),
        "title": conversation.title,
        "html": "".join(render_message(message, conversation) for message in messages),
        "item": render_list_item(conversation),
    }
    last = messages[-1]
    if last.generation_id is not None:
        frame |= {"reply": str(last.id), "generation": str(last.generation_id)}
    return frame


@database_sync_to_async
def _done_frame(message_id: UUID, blocks: list[str] | None, *, language: str | None) -> dict[str, Any]:
    """The frame that ends a reply. Its text is on screen already: the page takes state and actions from it."""
    message = (
        Message.objects.select_related("generation__model", "conversation").filter(id=message_id).first()
    )
    if message is None or message.generation is None:
        return {"type": "done", "message": str(message_id), "state": "cancelled", "html": ""}
    with translation.override(language):
        html = render_message(message, message.conversation, blocks)
    return {"type": "done", "message": str(message_id), "state": message.generation.state, "html": html}


def _bad_frame() -> UserError:
    return UserError("bad_frame", _("This page sent something the server does not know. Reload the page."))


def _str(frame: dict[str, Any], name: str) -> str:
    value = frame.get(name)
    if not isinstance(value, str):
        raise _bad_frame()
    return value


def _uuid(frame: dict[str, Any], name: str) -> UUID:
    try:
        return UUID(_str(frame, name))
    except ValueError:
        # Of an id that can be no one's, the same is said as of one that is somebody else's.
        raise NotFound(_("That conversation") if name == "conversation" else _("That message")) from None


def _int(frame: dict[str, Any], name: str, default: int) -> int:
    value = frame.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _entries(frame: dict[str, Any]) -> list[dict[str, Any]]:
    have = frame.get("have", [])
    if not isinstance(have, list) or len(have) > _MAX_HAVE:
        raise _bad_frame()
    for entry in have:
        if not isinstance(entry, dict):
            raise _bad_frame()
        _uuid(entry, "message")
    return have
