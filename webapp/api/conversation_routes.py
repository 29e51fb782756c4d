"""/v1/conversations: the chats of this site, as their person sees them in the browser. What is said in them is
`message_routes`'s business.

OpenAI has other things at this address, items kept for its Responses API; of those there are none here.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from ninja import Query, Router

from webapp.api.access import writing_model
from webapp.api.auth import NeedsAsync
from webapp.api.callers import Caller, caller
from webapp.api.conversation_schemas import (
    Conversation,
    ConversationList,
    DeletedConversation,
    NewConversation,
    NewTitle,
    Turn,
    as_conversation,
)
from webapp.api.conversation_streaming import answer_turn, send
from webapp.api.idempotency import repeatable
from webapp.api.lists import Order, place_of
from webapp.api.streaming import STREAM
from webapp.chat import access, models, services
from webapp.chat.notify import tell_deleted, tell_titled

router = Router(auth=NeedsAsync("chat"))


def own_conversation(who: Caller, conversation_id: str) -> models.Conversation:
    """Raises NotFound for everybody's but the caller's own, and for their own in other workspaces."""
    return access.get_conversation(who.user, conversation_id, workspace=who.workspace)


@router.get("", response=ConversationList, summary="List conversations")
async def list_conversations(
    request: HttpRequest,
    limit: int = Query(20, ge=1, le=100),
    after: str | None = None,
    order: Order = "desc",
) -> Any:
    """The caller's own in the workspace of the key, last used first. `after` is the last id of the page before."""
    return await sync_to_async(_page)(caller(request), limit, after, order == "desc")


@router.post("", response=Turn, summary="Begin a conversation", openapi_extra=STREAM)
@repeatable
async def create_conversation(request: HttpRequest, body: NewConversation) -> Any:
    """With its first message. The answer waits until that is replied to, or with `stream` has the reply as it is
    written. Who hangs up stops nothing: the conversation is on the person's pages, and the reply can be retrieved.
    With an Idempotency-Key it can be sent again without harm."""

    def begin() -> services.Sent:
        named = None if body.model is None else writing_model(caller(request).workspace, body.model)
        model = "" if named is None else str(named.pk)
        return send(request, body.content, conversation_id=None, model=model, title=body.title or "")

    sent = await sync_to_async(begin)()
    return await answer_turn(request, sent, stream=bool(body.stream))


@router.get("/{conversation_id}", response=Conversation, summary="Retrieve a conversation")
async def retrieve_conversation(request: HttpRequest, conversation_id: str) -> Any:
    return await sync_to_async(lambda: as_conversation(own_conversation(caller(request), conversation_id)))()


@router.post("/{conversation_id}", response=Conversation, summary="Rename a conversation")
async def rename_conversation(request: HttpRequest, conversation_id: str, body: NewTitle) -> Any:
    def rename() -> tuple[models.Conversation, Conversation]:
        found = own_conversation(caller(request), conversation_id)
        renamed = services.rename_conversation(conversation=found, title=body.title)
        return renamed, as_conversation(renamed)

    renamed, answer = await sync_to_async(rename)()
    await tell_titled(renamed)
    return answer


@router.delete("/{conversation_id}", response=DeletedConversation, summary="Delete a conversation")
async def delete_conversation(request: HttpRequest, conversation_id: str) -> Any:
    """With its messages. What is still being written ends."""

    who = caller(request)

    def delete() -> UUID:
        found = own_conversation(who, conversation_id)
        deleted_id = found.id
        services.delete_conversation(conversation=found)
        return deleted_id

    deleted_id = await sync_to_async(delete)()
    await tell_deleted(user_id=who.user.pk, conversation_id=deleted_id)
    return DeletedConversation(id=str(deleted_id))


def _page(who: Caller, limit: int, after: str | None, newest_first: bool) -> ConversationList:
    beyond = place_of(after, lambda text: own_conversation(who, text))
    found = access.page_of_conversations(
        who.user, who.workspace, beyond=beyond, limit=limit + 1, newest_first=newest_first
    )
    page = [as_conversation(conversation) for conversation in found[:limit]]
    return ConversationList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )
