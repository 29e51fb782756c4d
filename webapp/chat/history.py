"""What was said in a conversation so far, as a model is given it. Knows nothing of who may read it.

Read by a statement of its own, because it stands between every message and its answer.
"""

from __future__ import annotations

from typing import NamedTuple

from inference.models import ServedModel
from webapp.chat.models import Conversation, Message
from webapp.core import sql

# How much goes to a worker, in characters a token of context: it then keeps what fits, by the token.
_CHARACTERS_PER_TOKEN = 6
_PAGE = 100
_BEYOND_ALL = 2**31 - 1  # a position no message has


class Said(NamedTuple):
    turns: list[dict[str, str]]  # oldest first
    next_position: int


def history(
    conversation: Conversation, model: ServedModel, *, beside: int = 0, without: Message | None = None
) -> Said:
    """What a conversation holds: its last turns, as many as may fit the model.

    `beside` so many characters that are to follow; `without` a reply that is to be said anew. Replies that never said
    anything are left out.
    """
    turns: list[dict[str, str]] = []
    characters = model.context_length * _CHARACTERS_PER_TOKEN - beside
    highest, before = -1, _BEYOND_ALL
    while True:
        page = _messages_before(conversation, before)
        for position, role, text, reply in page:
            if characters <= 0:
                break
            content = text if role == Message.Role.USER else reply
            if not content or (without is not None and position == without.position):
                continue
            turns.append({"role": role, "content": content})
            characters -= len(content)
        if page:
            highest, before = max(highest, page[0][0]), page[-1][0]
        if characters <= 0 or len(page) < _PAGE:
            break
    return Said(turns[::-1], highest + 1)


def _messages_before(conversation: Conversation, position: int) -> list[tuple[int, str, str, str | None]]:
    """The next so many messages, newest first: position, role, a person's text, a reply's text."""
    return sql.fetch(
        "SELECT position, role, chat_message.text, inference_generation.text FROM chat_message"
        " LEFT JOIN inference_generation ON inference_generation.id = generation_id"
        " WHERE conversation_id = %s AND position < %s ORDER BY position DESC LIMIT %s",
        conversation.pk,
        position,
        _PAGE,
    )
