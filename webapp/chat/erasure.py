"""What erasing a person means for chat: their conversations go, with every reply, title and running generation."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.translation import gettext as _

from webapp.accounts.erasure import ErasureLine, register_eraser
from webapp.accounts.models import User
from webapp.chat.models import Conversation
from webapp.chat.services import delete_conversation


def erase(user: User) -> Iterable[ErasureLine]:
    """Runs inside the erasing transaction."""
    conversations = list(Conversation.objects.filter(user=user))
    for conversation in conversations:
        delete_conversation(conversation=conversation)
    yield ErasureLine(_("Conversations, with every message in them"), len(conversations))


register_eraser("chat", erase)
