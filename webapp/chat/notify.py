"""Tells a person's open tabs what changed, over the channel layer. A message lost here costs a reload, not data.

Who changed it is no matter: a tab, a program with a key, a worker.
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from webapp.accounts.sockets import user_group
from webapp.chat.models import Conversation, Message

logger = logging.getLogger(__name__)


async def tell_sent(conversation: Conversation, reply: Message, *, not_to: str = "") -> None:
    """A message and the reply to it, which each tab reads and renders in its own language."""
    sent = {"type": "sent", "conversation": str(conversation.id), "reply": str(reply.id)}
    await _tell(conversation.user_id, sent, not_to)


async def tell_retried(reply: Message) -> None:
    assert reply.generation_id is not None
    about = {"conversation": str(reply.conversation_id), "message": str(reply.id)}
    await _tell(
        reply.conversation.user_id, {"type": "retried", **about, "generation": str(reply.generation_id)}
    )


async def tell_titled(conversation: Conversation) -> None:
    about = {"conversation": str(conversation.id), "title": conversation.title}
    await _tell(conversation.user_id, {"type": "title", **about})


async def tell_deleted(*, user_id: UUID, conversation_id: UUID) -> None:
    await _tell(user_id, {"type": "deleted", "conversation": str(conversation_id)})


def title_changed(conversation: Conversation) -> None:
    async_to_sync(tell_titled)(conversation)


async def _tell(user_id: UUID, frame: dict[str, Any], not_to: str = "") -> None:
    """Sends a frame to every open tab of a person, but for the channel `not_to`."""
    message = {"type": "chat_frame", "frame": frame, "not_to": not_to}
    try:
        await get_channel_layer().group_send(user_group(user_id), message)
    except Exception:
        logger.exception("other tabs were not told of a %s frame", frame.get("type"))
