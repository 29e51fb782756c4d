"""The chat's websocket: commands in, frames out, as docs/architecture.md lists them. Thin: services write, access
reads, live streams."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

from channels.db import database_sync_to_async
from django.utils import translation
from django.utils.translation import gettext as _

from inference.models import Generation
from webapp.accounts.access import get_workspace
from webapp.accounts.consumers import AuthenticatedConsumer
from webapp.chat import access, services
from webapp.chat.live import LiveHub, Watcher
from webapp.chat.models import Conversation, Message
from webapp.chat.notify import tell_deleted, tell_retried, tell_sent, tell_titled
from webapp.chat.rendering import render_list_item, render_message
from webapp.core.errors import NotFound, UserError

# A page shows at most this many unfinished replies, and names no more of them.
_MAX_HAVE = 50


class _Opened(NamedTuple):
    """What a page that has `have` and everything up to a position lacks of a conversation."""

    conversation: UUID
    have: dict[UUID, dict[str, Any]]
    missed: dict[str, Any] | None  # the frame with the messages that came since
    unfinished: list[tuple[UUID, UUID]]  # replies that still grow: message, generation
    ended: list[UUID]  # replies of `have` that have ended


class ChatConsumer(AuthenticatedConsumer):
    """One open page."""

    async def connected(self) -> None:
        self.watcher = Watcher(self.send_frame)
        self.opened: UUID | None = None

    async def disconnect(self, code: int) -> None:
        if hasattr(self, "watcher"):
            self.watcher.close()

    def work(self, frame: dict[str, Any]) -> Any:
        command = COMMANDS.get(frame["type"])
        return command[0](self, frame) if command else super().work(frame)

    async def answer(self, frame: dict[str, Any], done: Any) -> None:
        await COMMANDS[frame["type"]][1](self, frame, done)

    # --- what commands read and write, on the database's thread ---------------------------------------------
    def _no_work(self, frame: dict[str, Any]) -> None:
        pass

    def _read_open(self, frame: dict[str, Any]) -> _Opened:
        conversation = access.get_conversation(self.user, _uuid(frame, "conversation"))
        have = {UUID(entry["message"]): entry for entry in _entries(frame)}
        missed, after = None, frame.get("after")
        if isinstance(after, int):
            new = [m for m in access.list_messages(conversation) if m.position > after]
            if new:
                missed = {"type": "messages", **_messages_frame(conversation, new)}
        replies = conversation.messages.exclude(generation=None)
        growing = replies.exclude(generation__state__in=Generation.TERMINAL)
        unfinished = list(growing.values_list("id", "generation_id"))
        ended = replies.filter(id__in=have, generation__state__in=Generation.TERMINAL)
        return _Opened(conversation.id, have, missed, unfinished, list(ended.values_list("id", flat=True)))

    def _store(self, frame: dict[str, Any]) -> tuple[services.Sent, dict[str, Any]]:
        conversation_id = None if frame.get("conversation") is None else _uuid(frame, "conversation")
        sent = services.send_message(
            user=self.user,
            workspace=None if conversation_id else get_workspace(self.user, self.workspace_id),
            conversation_id=conversation_id,
            client_id=_uuid(frame, "client_id"),
            text=_str(frame, "text"),
            model=_str(frame, "model") if "model" in frame else "",
        )
        return sent, _messages_frame(sent.conversation, [sent.message, sent.reply])

    def _stop(self, frame: dict[str, Any]) -> None:
        services.stop_reply(reply=access.get_reply(self.user, _uuid(frame, "message")))

    def _retry(self, frame: dict[str, Any]) -> Message:
        return services.retry_reply(reply=access.get_reply(self.user, _uuid(frame, "message")))

    def _rename(self, frame: dict[str, Any]) -> Conversation:
        conversation = access.get_conversation(self.user, _uuid(frame, "conversation"))
        return services.rename_conversation(conversation=conversation, title=_str(frame, "title"))

    def _delete(self, frame: dict[str, Any]) -> Conversation:
        conversation = access.get_conversation(self.user, _uuid(frame, "conversation"))
        services.delete_conversation(conversation=conversation)
        return conversation

    # --- what pages are told of it --------------------------------------------------------------------------
    async def _pong(self, frame: dict[str, Any], done: None) -> None:
        await self.send_frame({"type": "pong"})

    async def _say_nothing(self, frame: dict[str, Any], done: None) -> None:
        """What a stop does is seen in the reply."""

    async def _show(self, frame: dict[str, Any], opened: _Opened) -> None:
        self.watcher.leave()
        self.opened = opened.conversation
        if opened.missed is not None:
            await self.send_frame(opened.missed)
        for message_id, generation_id in opened.unfinished:
            known = opened.have.get(message_id, {})
            await self._watch(message_id, generation_id, _int(known, "blocks", 0), _int(known, "attempt", -1))
        for message_id in opened.ended:
            await self.send_frame(await _done_frame(message_id, None, language=translation.get_language()))

    async def _accept(self, frame: dict[str, Any], done: tuple[services.Sent, dict[str, Any]]) -> None:
        sent, messages = done
        self.opened = sent.conversation.id
        await self.send_frame({"type": "accepted", "client_id": str(sent.message.client_id), **messages})
        assert sent.reply.generation_id is not None
        await self._watch(sent.reply.id, sent.reply.generation_id)
        if sent.is_new:
            await tell_sent(sent.conversation, sent.reply, not_to=self.channel_name)

    async def _tell_retried(self, frame: dict[str, Any], reply: Message) -> None:
        await tell_retried(reply)

    async def _tell_renamed(self, frame: dict[str, Any], conversation: Conversation) -> None:
        await tell_titled(conversation)

    async def _tell_deleted(self, frame: dict[str, Any], conversation: Conversation) -> None:
        await tell_deleted(user_id=self.user.pk, conversation_id=_uuid(frame, "conversation"))

    # --- what other tabs and workers tell -------------------------------------------------------------------
    async def chat_frame(self, message: dict[str, Any]) -> None:
        frame = message["frame"]
        if message["not_to"] == self.channel_name or self.closing:
            return
        if frame["type"] == "sent":
            shown = await self._read_sent(frame)
            if shown is None:
                return
            frame = shown
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
            self.watcher.leave()

    @database_sync_to_async
    def _read_sent(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        """What somebody else sent, as this tab shows it; None where it is gone already, or no longer this person's."""
        try:
            reply = access.get_reply(self.user, frame["reply"])
        except NotFound:
            return None
        asked = access.list_messages(reply.conversation, before_position=reply.position, limit=1)
        return {"type": "messages", **_messages_frame(reply.conversation, [*asked, reply])}

    async def session_closed(self, message: dict[str, Any]) -> None:
        await super().session_closed(message)
        if self.closing and hasattr(self, "watcher"):
            self.watcher.close()

    async def _watch(self, message_id: UUID, generation_id: UUID, blocks: int = 0, attempt: int = -1) -> None:
        finish = functools.partial(_done_frame, language=translation.get_language())
        reply = LiveHub.current().reply(message_id, generation_id, finish)
        await self.watcher.watch(reply, blocks=blocks, attempt=attempt)


# Each command's two halves.
COMMANDS: dict[str, tuple[Callable[..., Any], Callable[..., Awaitable[None]]]] = {
    "open": (ChatConsumer._read_open, ChatConsumer._show),
    "send": (ChatConsumer._store, ChatConsumer._accept),
    "stop": (ChatConsumer._stop, ChatConsumer._say_nothing),
    "retry": (ChatConsumer._retry, ChatConsumer._tell_retried),
    "rename": (ChatConsumer._rename, ChatConsumer._tell_renamed),
    "delete": (ChatConsumer._delete, ChatConsumer._tell_deleted),
    "ping": (ChatConsumer._no_work, ChatConsumer._pong),
}


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
