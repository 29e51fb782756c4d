"""/v1/conversations/ID/messages: what is said in a conversation of this site. Sent here, it shows up live on the
person's open pages; a reply they stop there ends here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Query, Router

from webapp.api.auth import NeedsAsync
from webapp.api.callers import Caller, caller
from webapp.api.conversation_routes import own_conversation
from webapp.api.conversation_schemas import (
    ConversationMessage,
    ConversationMessageList,
    NewMessage,
    Retry,
    Turn,
    as_message,
)
from webapp.api.conversation_streaming import answer_turn, reply_ended, send, stream_reply
from webapp.api.idempotency import repeatable
from webapp.api.lists import Order, place_of
from webapp.api.streaming import STREAM, Position
from webapp.chat import access, models, services
from webapp.chat.notify import tell_retried
from webapp.core.errors import UserError

router = Router(auth=NeedsAsync("chat"))
# How long stopping waits for the reply's end; a worker that is well takes a decode step.
_STOP_SECONDS = 5.0


@router.get("/{conversation_id}/messages", response=ConversationMessageList, summary="List messages")
async def list_messages(
    request: HttpRequest,
    conversation_id: str,
    limit: int = Query(20, ge=1, le=100),
    after: str | None = None,
    order: Order = "asc",
) -> Any:
    """In the order they were said, or the last first. `after` is the last id of the page before."""
    return await sync_to_async(_page)(caller(request), conversation_id, limit, after, order == "desc")


@router.post(
    "/{conversation_id}/messages",
    response=Turn,
    summary="Send a message",
    openapi_extra=STREAM,
)
@repeatable
async def send_message(request: HttpRequest, conversation_id: str, body: NewMessage) -> Any:
    """The answer waits until the message is replied to, or with `stream` has the reply as it is written. Who hangs up
    stops nothing; the reply can be retrieved. With an Idempotency-Key a message can be sent again without harm."""

    def send_there() -> services.Sent:
        found = own_conversation(caller(request), conversation_id)
        return send(request, body.content, conversation_id=found.id)

    sent = await sync_to_async(send_there)()
    return await answer_turn(request, sent, stream=bool(body.stream))


@router.get(
    "/{conversation_id}/messages/{message_id}",
    response=ConversationMessage,
    summary="Retrieve a message",
    openapi_extra=STREAM,
)
async def retrieve_message(
    request: HttpRequest,
    conversation_id: str,
    message_id: str,
    stream: bool = False,
) -> Any:
    """Of a reply that is being written: what is there by now; with `stream` what is there, and the rest as it comes.
    Last-Event-ID leaves out what an earlier stream has given already."""
    message = await sync_to_async(_own_message)(caller(request), conversation_id, message_id)
    if stream and message.generation_id is not None:
        return stream_reply(request, message, Position.asked_for(request, 1))
    return await sync_to_async(as_message)(message)


@router.post(
    "/{conversation_id}/messages/{message_id}/stop",
    response=ConversationMessage,
    summary="Stop a reply",
)
@repeatable
async def stop_reply(request: HttpRequest, conversation_id: str, message_id: str) -> Any:
    """What it said so far is kept. Stopping one that has ended is no error."""
    who = caller(request)

    def stop() -> models.Message:
        reply = _own_reply(who, conversation_id, message_id)
        services.stop_reply(reply=reply)
        return reply

    reply = await sync_to_async(stop)()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reply_ended(request, reply), _STOP_SECONDS)
    return await sync_to_async(lambda: as_message(_own_message(who, conversation_id, message_id)))()


@router.post(
    "/{conversation_id}/messages/{message_id}/retry",
    response=ConversationMessage,
    summary="Try a reply again",
    openapi_extra=STREAM,
)
async def retry_reply(
    request: HttpRequest, conversation_id: str, message_id: str, body: Retry | None = None
) -> Any:
    """The last reply of a conversation, once it has ended: it is written anew and takes the old one's place."""
    who = caller(request)

    def retry() -> models.Message:
        reply = _own_reply(who, conversation_id, message_id)
        return services.retry_reply(reply=reply, api_key=who.key)

    reply = await sync_to_async(retry)()
    await tell_retried(reply)
    if body is not None and body.stream:
        return stream_reply(request, reply, Position(1))
    await reply_ended(request, reply)
    return await sync_to_async(lambda: as_message(_own_message(who, conversation_id, message_id)))()


def _own_message(who: Caller, conversation_id: str, message_id: str) -> models.Message:
    return access.get_message(own_conversation(who, conversation_id), message_id)


def _own_reply(who: Caller, conversation_id: str, message_id: str) -> models.Message:
    """Raises NotFound; UserError `not_a_reply`."""
    message = _own_message(who, conversation_id, message_id)
    if message.generation_id is None:
        raise UserError(
            "not_a_reply", _("That message is a person's. Name the reply to it."), param="message_id"
        )
    return message


def _page(
    who: Caller, conversation_id: str, limit: int, after: str | None, newest_first: bool
) -> ConversationMessageList:
    conversation = own_conversation(who, conversation_id)
    beyond = place_of(after, lambda text: access.get_message(conversation, text))
    found = access.page_of_messages(conversation, beyond=beyond, limit=limit + 1, newest_first=newest_first)
    page = [as_message(message) for message in found[:limit]]
    return ConversationMessageList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )
