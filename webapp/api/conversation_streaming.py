"""A reply in a conversation on its way to a program: waited for, or as server-sent events while it is written.

It is written whether or not anybody reads, and can be read again. Knows nothing of who may read what.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase

from webapp.api import idempotency
from webapp.api.callers import Caller, caller
from webapp.api.conversation_schemas import (
    ConversationMessage,
    MessageDelta,
    MessageEnded,
    Turn,
    TurnCreated,
    as_message,
    as_turn,
)
from webapp.api.following import Following
from webapp.api.streaming import KEEP_ALIVE, Position, event_stream, sse
from webapp.chat import access, models, services
from webapp.chat.notify import tell_sent
from webapp.core.errors import NotFound, UserError


def send(
    request: HttpRequest, text: str, *, conversation_id: uuid.UUID | None, model: str = "", title: str = ""
) -> services.Sent:
    """What the caller says in this conversation, or begins one with; the same again where it comes a second time with
    the same Idempotency-Key. Raises as `chat.services.send_message` does, and UserError `idempotency_key_reused`."""
    who = caller(request)
    try:
        sent = services.send_message(
            user=who.user,
            workspace=who.workspace,
            conversation_id=conversation_id,
            client_id=_client_id(who, idempotency.key_of(request)),
            text=text,
            model=model,
            title=title,
            api_key=who.key,
        )
    except UserError as error:
        if error.code in ("message_empty", "message_too_long"):
            error.param = "content"
        raise
    # The first message was sent to no conversation: it began one.
    sent_to = sent.conversation.id if sent.message.position else None
    if sent_to != conversation_id or sent.message.text != services.clean_text(text):
        raise idempotency.key_reused()
    return sent


def _client_id(who: Caller, idempotency_key: str | None) -> uuid.UUID:
    """What the same message sent again is known by."""
    if not idempotency_key:
        return uuid.uuid4()
    return uuid.uuid5(who.workspace.pk, f"{who.user.pk}:{idempotency_key}")


async def answer_turn(request: HttpRequest, sent: services.Sent, *, stream: bool) -> Any:
    """The answer to whoever sent it: when the reply is there, or a stream of it."""
    if sent.is_new:
        await tell_sent(sent.conversation, sent.reply)
    if stream:
        position = Position.asked_for(request, 1)
        first = None if position.begun else await sync_to_async(as_turn)(sent)
        return stream_reply(request, sent.reply, position, first)
    await reply_ended(request, sent.reply)
    return await sync_to_async(_read_turn)(sent)


async def reply_ended(request: HttpRequest, reply: models.Message) -> None:
    """Waits for its end, however it ends."""
    following = _follow(request, reply)
    try:
        await following.whole()
    except UserError:
        if not following.choices[0].ended:
            raise
    finally:
        following.close()


def stream_reply(
    request: HttpRequest, reply: models.Message, position: Position, first: Turn | None = None
) -> HttpResponseBase:
    """What is said in `reply` behind `position`, as it comes, to the end; behind `first`, where that is given."""
    following = _follow(request, reply)
    return event_stream(following, _events(following, reply, position, first))


def _follow(request: HttpRequest, reply: models.Message) -> Following:
    assert reply.generation is not None
    return Following(
        caller(request), [reply.generation.id], param="content", rows=[reply.generation], lasting=True
    )


async def _events(
    following: Following, reply: models.Message, position: Position, first: Turn | None
) -> AsyncIterator[bytes]:
    [choice] = following.choices
    if first is not None:
        yield _encoded(TurnCreated(**dict(first)), position)
    try:
        async for changed in following.changes():
            if new := choice.text[position.characters[0] :]:
                position.characters[0] += len(new)
                yield _encoded(MessageDelta(message_id=str(reply.id), delta=new), position)
            elif not changed:
                yield KEEP_ALIVE
    except UserError:
        if not choice.ended:
            raise
    message = await sync_to_async(_read_message)(reply)
    if message is not None:
        yield _encoded(MessageEnded(message=message), position)


def _encoded(event: TurnCreated | MessageDelta | MessageEnded, position: Position) -> bytes:
    return sse(event.model_dump(), id=position, event=event.type)


def _read_turn(sent: services.Sent) -> Turn:
    return as_turn(sent._replace(reply=access.get_message(sent.conversation, sent.reply.id)))


def _read_message(reply: models.Message) -> ConversationMessage | None:
    """As it is now; None where it was deleted."""
    try:
        return as_message(access.get_message(reply.conversation, reply.id))
    except NotFound:
        return None
