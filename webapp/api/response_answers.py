"""A response as it is answered, and the events it comes in. Knows nothing of requests.

Where an event stands among the others is its sequence_number: those before any text count from 0, then each character
counts one, so that a reader who comes back with the last number it saw gets the rest, each character once. Numbers grow
and are never given twice; between two of them there may be a gap.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _

from inference.models import Generation
from webapp.api import access, failures
from webapp.api.following import Following
from webapp.api.models import Completion
from webapp.api.response_items import output_id
from webapp.api.streaming import KEEP_ALIVE, sse
from webapp.core.errors import UserError

State = Generation.State
Named = tuple[str, dict[str, Any]]  # an event: its type, and what it says besides
_STATUSES = {
    State.QUEUED: "in_progress",
    State.RUNNING: "in_progress",
    State.COMPLETE: "completed",
    State.CANCELLED: "cancelled",
    State.FAILED: "failed",
    State.REFUSED: "failed",
    State.INTERRUPTED: "failed",
}


def as_response(completion: Completion, generation: Generation) -> dict[str, Any]:
    """An OpenAI `response`, from its rows."""
    asked = completion.request
    status = _status(completion, generation)
    return {
        "id": access.public_id(completion),
        "object": "response",
        "created_at": int(completion.created_at.timestamp()),
        "completed_at": _seconds(generation.finished_at) if status == "completed" else None,
        "status": status,
        "background": asked.get("background", False),
        "error": _error(generation),
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "metadata": completion.metadata,
        "model": completion.model_name,
        "output": _output(generation),
        "parallel_tool_calls": False,
        "previous_response_id": asked.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": completion.store,
        "temperature": asked.get("temperature"),
        "text": {"format": asked.get("format", {"type": "text"})},
        "tool_choice": "none",
        "tools": [],
        "top_p": asked.get("top_p"),
        "truncation": "disabled",
        "usage": _usage(generation) if generation.is_finished else None,
        "user": asked.get("user"),
    }


def unbegun(generation_id: UUID) -> Generation:
    """What a response is made of before anything has come of it."""
    return Generation(id=generation_id, state=State.QUEUED)


def _output(generation: Generation) -> list[dict[str, Any]]:
    """What was answered, as far as it came, once no more will come."""
    if not generation.is_finished or not (generation.text or generation.state == State.COMPLETE):
        return []
    is_whole = generation.state == State.COMPLETE and generation.finish_reason != "length"
    part = _text_part(generation.text)
    return [_message(generation, "completed" if is_whole else "incomplete", [part])]


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(generation: Generation, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": output_id(generation.id),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _status(completion: Completion, generation: Generation) -> str:
    if generation.state == State.QUEUED and completion.request.get("background"):
        return "queued"
    if generation.state == State.COMPLETE and generation.finish_reason == "length":
        return "incomplete"
    return _STATUSES[State(generation.state)]


def _error(generation: Generation) -> dict[str, str] | None:
    kind, data = generation.last_event()
    if kind == "refused":
        error = failures.refused(data, "input")
    elif generation.state in (State.FAILED, State.INTERRUPTED):
        error = failures.failed(data)
    else:
        return None
    code = "invalid_prompt" if error.status < 500 else "server_error"
    return {"code": code, "message": error.message}


def _usage(generation: Generation) -> dict[str, Any]:
    read, written = generation.prompt_tokens, generation.completion_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": generation.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


class Events:
    """The events of one response for one reader, behind the sequence_number `after` (-1: all of them)."""

    def __init__(self, completion: Completion, generation_id: UUID, after: int = -1) -> None:
        self._completion, self._after = completion, after
        self._begun = unbegun(generation_id)
        self._place = {"item_id": output_id(generation_id), "output_index": 0, "content_index": 0}

    async def stream(
        self, following: Following, read: Callable[[], Awaitable[Generation | None]]
    ) -> AsyncIterator[bytes]:
        """`read` gives the row once it has ended; None where it was deleted."""
        [choice] = following.choices
        first = self._first()
        if chunk := self._numbered(0, first):
            yield chunk
        base = len(first) - 1
        sent = max(self._after - base, 0)
        error = None
        try:
            async for changed in following.changes():
                if new := choice.text[sent:]:
                    sent += len(new)
                    data = {**self._place, "delta": new, "logprobs": []}
                    yield self._numbered(base + sent, [("response.output_text.delta", data)])
                elif not changed:
                    yield KEEP_ALIVE
        except UserError as raised:
            error = raised
        generation = await read() if choice.ended else None
        number = base + len(choice.text) + 1
        if generation is not None:
            last = self._last(generation)
        else:
            error = error or UserError("deleted", _("This response was deleted."), status=404)
            last = [("error", {"code": error.code, "message": error.message, "param": error.param})]
            number = max(number, self._after + 1)
        if chunk := self._numbered(number, last):
            yield chunk

    def _first(self) -> list[Named]:
        """Those before any text."""
        response = as_response(self._completion, self._begun)
        in_progress = {"response": {**response, "status": "in_progress"}}
        first: list[Named] = [("response.created", {"response": response})]
        if response["background"]:
            first.append(("response.queued", {"response": response}))
        item = _message(self._begun, "in_progress", [])
        return [
            *first,
            ("response.in_progress", in_progress),
            ("response.output_item.added", {"output_index": 0, "item": item}),
            ("response.content_part.added", {**self._place, "part": _text_part("")}),
        ]

    def _last(self, generation: Generation) -> list[Named]:
        """Those behind all text."""
        response = as_response(self._completion, generation)
        # There is no event for a cancelled one; what it is in the end, its status says.
        kinds = {"completed": "response.completed", "failed": "response.failed"}
        ending = (kinds.get(response["status"], "response.incomplete"), {"response": response})
        if not response["output"]:
            return [ending]
        [item] = response["output"]
        [part] = item["content"]
        return [
            ("response.output_text.done", {**self._place, "text": part["text"], "logprobs": []}),
            ("response.content_part.done", {**self._place, "part": part}),
            ("response.output_item.done", {"output_index": 0, "item": item}),
            ending,
        ]

    def _numbered(self, first: int, events: list[Named]) -> bytes:
        """Of these, the first of which has that number, those that the reader has not seen."""
        return b"".join(
            sse({"type": kind, "sequence_number": number, **data}, id=str(number), event=kind)
            for number, (kind, data) in enumerate(events, first)
            if number > self._after
        )
