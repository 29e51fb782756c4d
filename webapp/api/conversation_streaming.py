"""A message of a conversation on its way out: waited for, or as server-sent events while it is written.

An event's id says where it is in the reply's log, so that who lost the connection goes on behind it. Knows nothing
of who may read what.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse
from django.utils.translation import gettext as _

from inference.follow import follow
from inference.stream import TERMINAL_TYPES
from webapp.api.auth import Caller
from webapp.api.conversation_schemas import (
    ConversationMessage,
    MessageDelta,
    MessageEnded,
    MessageReset,
    Turn,
    TurnCreated,
    as_message,
    as_turn,
)
from webapp.chat import access, models, services
from webapp.chat.notify import tell_sent
from webapp.core.errors import NotFound, UserError

# For the document: what a route that may stream answers besides JSON.
STREAM: dict[str, Any] = {
    "responses": {
        200: {
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": "event: message.delta",
                }
            }
        }
    }
}
_PLACE = re.compile(r"(\d{1,9})-(\d{1,9})")


class Place(NamedTuple):
    """Behind which event a reader is, of which attempt at the reply."""

    attempt: int | None = None
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.attempt or 0}-{self.seq}"


def place_named(event_id: str | None) -> Place | None:
    """What a Last-Event-ID of ours says; None where there is none. Raises UserError `invalid_value`."""
    if event_id is None:
        return None
    found = _PLACE.fullmatch(event_id)
    if found is None:
        raise UserError(
            "invalid_value",
            _("Last-Event-ID is not the id of an event that came from here."),
            param="Last-Event-ID",
        )
    attempt, seq = int(found[1]), int(found[2])
    return Place(attempt or None, seq)


def client_id_for(who: Caller, idempotency_key: str | None) -> uuid.UUID:
    """What the same message sent again is known by."""
    if idempotency_key is None:
        return uuid.uuid4()
    return uuid.uuid5(who.workspace.pk, f"{who.user.pk}:{idempotency_key}")


def only_repeated(sent: services.Sent, *, conversation_id: uuid.UUID | None, text: str) -> services.Sent:
    """`sent`, where it is what was asked for now. Raises UserError `idempotency_key_reused` where it is what the same
    key came with before."""
    begins = conversation_id is None
    same_place = sent.message.position == 0 if begins else sent.conversation.id == conversation_id
    if not same_place or sent.message.text != services.clean_text(text):
        raise UserError(
            "idempotency_key_reused",
            _("That Idempotency-Key came with another request before. Take a new one for each."),
            status=409,
            param="Idempotency-Key",
        )
    return sent


async def answer_turn(sent: services.Sent, *, stream: bool, after: Place | None = None) -> Any:
    """The answer to whoever sent it: when the reply is there, or a stream of it."""
    if sent.is_new:
        await tell_sent(sent.conversation, sent.reply)
    if not stream:
        await reply_ended(sent.reply)
        return await sync_to_async(_read_turn)(sent)
    return event_stream(_turn_events(sent, after))


async def reply_ended(reply: models.Message) -> None:
    """Waits for its end, however it ends."""
    assert reply.generation_id is not None
    async for _event in follow(reply.generation_id):
        pass


def _read_turn(sent: services.Sent) -> Turn:
    reply = access.get_message(sent.conversation, sent.reply.id)
    return as_turn(sent._replace(reply=reply))


async def _turn_events(sent: services.Sent, after: Place | None) -> AsyncIterator[bytes]:
    if after is None:
        turn = await sync_to_async(as_turn)(sent)
        yield _encoded(TurnCreated(**dict(turn)), Place())
    async for event in reply_events(sent.reply, after):
        yield event


async def reply_events(reply: models.Message, after: Place | None = None) -> AsyncIterator[bytes]:
    """What is said in `reply` behind `after`, as it comes, to the end."""
    assert reply.generation_id is not None
    start = after or Place()
    async for event in follow(reply.generation_id, after=start.seq, attempt=start.attempt):
        place = Place(event.attempt, event.seq)
        if event.type == "text" and event.data["text"]:
            yield _encoded(MessageDelta(message_id=str(reply.id), delta=event.data["text"]), place)
        elif event.type == "reset":
            yield _encoded(MessageReset(message_id=str(reply.id), content=event.data["text"]), place)
        elif event.type in TERMINAL_TYPES:
            message = await sync_to_async(_read_message)(reply)
            if message is not None:
                yield _encoded(MessageEnded(message=message), place)


def _read_message(reply: models.Message) -> ConversationMessage | None:
    """As it is now; None where it was deleted."""
    try:
        return as_message(access.get_message(reply.conversation, reply.id))
    except NotFound:
        return None


def event_stream(events: AsyncIterator[bytes]) -> StreamingHttpResponse:
    response = StreamingHttpResponse(events, content_type="text/event-stream; charset=utf-8")
    # Of proxies that would keep an answer until it is whole.
    response["X-Accel-Buffering"] = "no"
    return response


def _encoded(event: TurnCreated | MessageDelta | MessageReset | MessageEnded, place: Place) -> bytes:
    body = event.model_dump_json()
    return f"id: {place}\nevent: {event.type}\ndata: {body}\n\n".encode()
