"""What a conversation and its messages look like to programs, and how they are read from rows.

Their `stream` events are here too; when each is sent is `conversation_streaming`'s business.
"""

from __future__ import annotations

from typing import Literal

from ninja import Schema
from pydantic import Field
from redis.exceptions import RedisError

from inference.models import Generation
from inference.services import token_log
from inference.stream import text_of
from webapp.api.sampling import Body
from webapp.chat import models, services
from webapp.chat.endings import ending

State = Generation.State
Status = Literal["queued", "in_progress", "completed", "cancelled", "failed", "incomplete"]
_STATUSES: dict[str, Status] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.COMPLETE: "completed",
    State.CANCELLED: "cancelled",
    State.FAILED: "failed",
    State.REFUSED: "failed",
    State.INTERRUPTED: "incomplete",
}


class NewConversation(Body):
    content: str  # what is said first
    # As /v1/models calls it; without it the site's default answers, whichever that is.
    model: str | None = Field(None, max_length=200)
    title: str | None = None  # without one it is named after its first message
    stream: bool | None = None


class NewMessage(Body):
    content: str
    stream: bool | None = None


class Retry(Body):
    stream: bool | None = None


class NewTitle(Body):
    title: str


class Conversation(Schema):
    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    last_used_at: int
    title: str
    model: str | None  # null: the site's default


class ConversationList(Schema):
    object: Literal["list"] = "list"
    data: list[Conversation]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedConversation(Schema):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True


class MessageError(Schema):
    code: str
    message: str


class MessageUsage(Schema):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ConversationMessage(Schema):
    id: str
    object: Literal["conversation.message"] = "conversation.message"
    conversation_id: str
    created_at: int
    role: Literal["user", "assistant"]
    content: str  # of a reply that is being written: so far
    status: Status
    # Of a reply:
    model: str | None
    finish_reason: str | None  # "stop", "length"
    error: MessageError | None
    usage: MessageUsage | None


class ConversationMessageList(Schema):
    object: Literal["list"] = "list"
    data: list[ConversationMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Turn(Schema):
    """What was sent, and what came of it."""

    object: Literal["conversation.turn"] = "conversation.turn"
    conversation: Conversation
    message: ConversationMessage
    reply: ConversationMessage


class TurnCreated(Turn):
    """The first event of a stream that sends: it is stored, whatever becomes of the connection."""

    type: Literal["turn.created"] = "turn.created"


class MessageDelta(Schema):
    type: Literal["message.delta"] = "message.delta"
    message_id: str
    delta: str


class MessageEnded(Schema):
    """The last event of a stream; what it says is what counts."""

    type: Literal["message.ended"] = "message.ended"
    message: ConversationMessage


def as_conversation(conversation: models.Conversation) -> Conversation:
    return Conversation(
        id=str(conversation.id),
        created_at=int(conversation.created_at.timestamp()),
        last_used_at=int(conversation.updated_at.timestamp()),
        title=conversation.title,
        model=conversation.model.name if conversation.model else None,
    )


def as_message(message: models.Message) -> ConversationMessage:
    """With its generation and model loaded, where it is a reply."""
    reply = message.generation
    return ConversationMessage(
        id=str(message.id),
        conversation_id=str(message.conversation_id),
        created_at=int(message.created_at.timestamp()),
        role="user" if reply is None else "assistant",
        content=message.text if reply is None else _text(reply),
        status="completed" if reply is None else _STATUSES[reply.state],
        model=None if reply is None else reply.model.name,
        finish_reason=None if reply is None else reply.finish_reason or None,
        error=None if reply is None else _error(reply),
        usage=None if reply is None or not reply.is_finished else _usage(reply),
    )


def as_turn(sent: services.Sent) -> Turn:
    return Turn(
        conversation=as_conversation(sent.conversation),
        message=as_message(sent.message),
        reply=as_message(sent.reply),
    )


def _text(reply: Generation) -> str:
    """The row has the text of a reply once it has ended; until then the log has."""
    if reply.is_finished or (reply.state == State.QUEUED and not reply.attempt):
        return reply.text
    try:
        return text_of(token_log().read(reply.id))
    except RedisError:
        return ""


def _error(reply: Generation) -> MessageError | None:
    if _STATUSES[reply.state] not in ("failed", "incomplete"):
        return None
    return MessageError(code=reply.error_code or reply.state, message=ending(reply)[0])


def _usage(reply: Generation) -> MessageUsage:
    return MessageUsage(
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        total_tokens=reply.prompt_tokens + reply.completion_tokens,
    )
