"""Permission-checked reads of conversations: the only way anything fetches them. Whose it is not gets NotFound."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from inference.models import ServedModel
from webapp.accounts.models import User, Workspace
from webapp.chat.models import Conversation, Message
from webapp.core.errors import NotFound
from webapp.core.ids import as_uuid


def _mine(user: User | AnonymousUser) -> QuerySet[Conversation]:
    """Conversations of `user` in workspaces they are still a member of."""
    if not user.is_authenticated:
        return Conversation.objects.none()
    return Conversation.objects.filter(user_id=user.pk, workspace__memberships__user_id=user.pk)


def get_conversation(
    user: User | AnonymousUser,
    conversation_id: uuid.UUID | str,
    *,
    workspace: Workspace | None = None,
    for_update: bool = False,
) -> Conversation:
    """The person's own conversation, with its workspace loaded. Raises NotFound for everyone else.

    With `workspace` only one of that workspace's: a key opens no other. `for_update` locks its row until the
    transaction ends (SQLite locks as a whole).
    """
    key = as_uuid(conversation_id)
    rows = _mine(user).select_related("workspace")
    if workspace is not None:
        rows = rows.filter(workspace=workspace)
    if for_update:
        rows = rows.select_for_update(of=("self",))
    found = next(iter(rows.filter(id=key)), None) if key else None
    if found is None:
        raise NotFound(_("That conversation"))
    return found


def get_chosen_model(conversation: Conversation) -> ServedModel | None:
    """The model it was begun with, removed or not; None for the site's default."""
    if conversation.model_id is None:
        return None
    return ServedModel.objects.select_related("base").get(pk=conversation.model_id)


def get_message(conversation: Conversation, message_id: uuid.UUID | str) -> Message:
    """One of its messages, with its generation and model loaded. Raises NotFound."""
    key = as_uuid(message_id)
    found = None
    if key:
        messages = conversation.messages.select_related("generation__model").defer("generation__messages")
        found = messages.filter(id=key).first()
    if found is None:
        raise NotFound(_("That message"))
    found.conversation = conversation
    return found


def get_reply(user: User | AnonymousUser, message_id: uuid.UUID | str) -> Message:
    """An answer in one of the person's conversations, with both and its generation loaded. Raises NotFound."""
    key = as_uuid(message_id)
    found = None
    if key:
        replies = Message.objects.select_related("generation", "conversation__workspace")
        found = replies.filter(id=key, conversation__in=_mine(user)).exclude(generation=None).first()
    if found is None:
        raise NotFound(_("That message"))
    return found


def list_conversations(
    user: User, workspace: Workspace, *, before: datetime | None = None, limit: int = 50, query: str = ""
) -> list[Conversation]:
    """The person's conversations in a workspace, last used first; `query` looks in titles and all text."""
    found = _mine(user).filter(workspace=workspace).order_by("-updated_at", "-id")
    if before is not None:
        found = found.filter(updated_at__lt=before)
    if query:
        # Their own messages only: a search must not read, nor take the time of, everybody else's.
        mine = Message.objects.filter(conversation__user_id=user.pk, conversation__workspace=workspace)
        said = mine.filter(Q(text__icontains=query) | Q(generation__text__icontains=query))
        found = found.filter(Q(title__icontains=query) | Q(id__in=said.values("conversation_id")))
    return list(found[:limit])


def page_of_conversations(
    user: User, workspace: Workspace, *, beyond: Conversation | None, limit: int, newest_first: bool
) -> list[Conversation]:
    """The person's conversations in a workspace by when they were last used, each with its model; those that come
    after `beyond` in that order."""
    sign, compare = ("-", "lt") if newest_first else ("", "gt")
    found = _mine(user).filter(workspace=workspace).select_related("model")
    if beyond is not None:
        same_time = Q(updated_at=beyond.updated_at, **{f"id__{compare}": beyond.pk})
        found = found.filter(Q(**{f"updated_at__{compare}": beyond.updated_at}) | same_time)
    return list(found.order_by(f"{sign}updated_at", f"{sign}id")[:limit])


def page_of_messages(
    conversation: Conversation, *, beyond: Message | None, limit: int, newest_first: bool
) -> list[Message]:
    """Messages in the order they were said, or the last first, each with its generation and model; those that come
    after `beyond` in that order."""
    messages = conversation.messages.select_related("generation__model").defer("generation__messages")
    if beyond is not None:
        compare = "lt" if newest_first else "gt"
        messages = messages.filter(**{f"position__{compare}": beyond.position})
    return list(messages.order_by("-position" if newest_first else "position")[:limit])


def list_messages(
    conversation: Conversation, *, before_position: int | None = None, limit: int = 50
) -> list[Message]:
    """The last `limit` messages before a position, oldest first, each with its generation and model."""
    messages = conversation.messages.select_related("generation__model").defer("generation__messages")
    if before_position is not None:
        messages = messages.filter(position__lt=before_position)
    return list(messages.order_by("-position")[:limit])[::-1]
