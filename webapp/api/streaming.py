"""Server-sent events: a completion's choices as they grow, in whatever shape an endpoint gives them.

Every event has an id that says how far each choice had come. Who sends the last one it saw (Last-Event-ID) gets the
rest, each character once. Knows no endpoint's shapes.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils.translation import gettext as _

from webapp.api.answers import Items
from webapp.api.following import Choice, Following
from webapp.core.errors import UserError

# For the document: what a route that may stream answers besides JSON.
STREAM: dict[str, Any] = {
    "responses": {
        200: {
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": "data: {...}\n\ndata: [DONE]\n\n",
                }
            }
        }
    }
}
_DONE = b"data: [DONE]\n\n"
# A comment, and no empty line behind it: OpenAI's client, once it has seen an id, would take that for an empty event.
KEEP_ALIVE = b": still at it\n"
# Of each choice the characters and the logprobs that were sent, and "e" where its end was.
_PLACE = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?(e?)", re.ASCII)
encode = msgspec.json.Encoder().encode


class Shapes(Protocol):
    """What an endpoint's answer looks like, whole and in events."""

    def whole(self, choices: list[Choice]) -> dict[str, Any]:
        """All of it."""

    def begin(self) -> list[dict[str, Any]]:
        """The first ones, before any text."""

    def said(self, choice: Choice) -> tuple[str, Items]:
        """All of a choice so far: its text and, where they were asked for, the logprobs of its tokens."""

    def delta(self, choice: Choice, text: str, logprobs: Items, before: int) -> dict[str, Any]:
        """What is new of that. `before` so many logprobs went before these."""

    def end(self, choice: Choice) -> dict[str, Any]:
        """A choice that is complete."""

    def usage(self, choices: list[Choice]) -> dict[str, Any] | None:
        """The last one of all, where it was asked for."""


class Position:
    """How far a reader has come."""

    def __init__(self, choices: int) -> None:
        self.characters, self.logprobs = [0] * choices, [0] * choices
        self.ended = [False] * choices
        self.begun = self.usage = False

    @classmethod
    def asked_for(cls, request: HttpRequest, choices: int) -> Position:
        """Where the request's Last-Event-ID says. Raises UserError `invalid_value` for one that is not ours."""
        position = cls(choices)
        given = request.headers.get("Last-Event-ID")
        if not given:
            return position
        parts = given.split("-")
        if position_has_usage := parts[-1] == "u":
            parts.pop()
        places = [_PLACE.fullmatch(part) for part in parts]
        if len(places) != choices or not all(places):
            message = _("That is not the id of an event of this stream.")
            raise UserError("invalid_value", message, param="Last-Event-ID")
        for index, place in enumerate(places):
            assert place is not None
            position.characters[index] = int(place[1])
            position.logprobs[index] = int(place[2] or 0)
            position.ended[index] = bool(place[3])
        position.begun, position.usage = True, position_has_usage
        return position

    def __str__(self) -> str:
        parts = [
            f"{characters}{f'.{logprobs}' if logprobs else ''}{'e' if ended else ''}"
            for characters, logprobs, ended in zip(self.characters, self.logprobs, self.ended, strict=True)
        ]
        return "-".join([*parts, "u"] if self.usage else parts)


def sse(data: object, *, id: object = "", event: str = "") -> bytes:
    """One event; `data` becomes JSON."""
    name = f"event: {event}\n" if event else ""
    place = f"id: {id}\n" if id else ""
    return f"{name}{place}data: ".encode() + encode(data) + b"\n\n"


def json_response(data: object, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """What a route answers whose shape is its own affair: nothing checks it a second time."""
    body = encode(data)
    headers = {**(headers or {}), "Content-Length": str(len(body))}
    return HttpResponse(body, content_type="application/json; charset=utf-8", headers=headers)


def event_stream(
    following: Following, events: AsyncIterator[bytes], headers: Mapping[str, str] | None = None
) -> StreamingHttpResponse:
    """The answer made of `events`. However it ends, `following` is closed."""
    response = StreamingHttpResponse(
        _to_the_end(following, events), content_type="text/event-stream; charset=utf-8", headers=headers
    )
    # Of proxies that would keep an answer until it is whole.
    response["X-Accel-Buffering"] = "no"
    # Where the client has gone before the first event was asked for, nothing runs that could notice.
    response._resource_closers.append(following.close_from_any_thread)  # type: ignore[attr-defined]
    return response


async def _to_the_end(following: Following, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in events:
            yield chunk
    except UserError as error:
        yield sse(error.as_json(), event="error")
    finally:
        following.close()


async def completion_events(following: Following, shapes: Shapes, position: Position) -> AsyncIterator[bytes]:
    """What is new since `position`, until every choice has ended, and [DONE]."""
    if not position.begun and (first := shapes.begin()):
        yield b"".join([*map(sse, first[:-1]), sse(first[-1], id=position)])
    async for changed in following.changes():
        parts = [part for choice in changed for part in _news(choice, shapes, position)]
        if parts or not changed:
            yield b"".join(parts or [KEEP_ALIVE])
    last = b""
    if not position.usage and (usage := shapes.usage(following.choices)) is not None:
        position.usage = True
        last = sse(usage, id=position)
    yield last + _DONE


def _news(choice: Choice, shapes: Shapes, position: Position) -> list[bytes]:
    parts = []
    at = choice.index
    text, logprobs = shapes.said(choice)
    characters, items = position.characters[at], position.logprobs[at]
    # What a broker lost is said again, and only what goes beyond it is new.
    if len(text) > characters or len(logprobs) > items:
        position.characters[at], position.logprobs[at] = max(characters, len(text)), max(items, len(logprobs))
        parts.append(sse(shapes.delta(choice, text[characters:], logprobs[items:], items), id=position))
    if choice.ended and choice.failure is None and not position.ended[at]:
        position.ended[at] = True
        parts.append(sse(shapes.end(choice), id=position))
    return parts
