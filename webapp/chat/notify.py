"""Tells a person's open tabs what changed, over the channel layer. A message lost here costs a reload, not data."""

from __future__ import annotations

import logging
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from webapp.accounts.sockets import user_group
from webapp.chat.models import Conversation

logger = logging.getLogger(__name__)


async def tell_tabs(conversation: Conversation, frame: dict[str, Any], *, not_to: str = "") -> None:
    """Sends a frame to every open tab of the conversation's person, but for the channel `not_to`."""
    message = {"type": "chat_frame", "frame": frame, "not_to": not_to}
    try:
        await get_channel_layer().group_send(user_group(conversation.user_id), message)
    except Exception:
        logger.exception("other tabs were not told of a %s frame", frame.get("type"))


def title_changed(conversation: Conversation) -> None:
    frame = {"type": "title", "conversation": str(conversation.id), "title": conversation.title}
    async_to_sync(tell_tabs)(conversation, frame)
