"""/v1/chat/completions: answers to conversations that a program keeps itself; those it asked to store are here, too."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase
from ninja import Router

from webapp.api import access, services
from webapp.api.auth import NeedsAsync, caller
from webapp.api.chat_completion_answers import Chunks, whole
from webapp.api.chat_completion_schemas import ChatCompletion, CreateChatCompletion
from webapp.api.following import Choice, Following
from webapp.api.models import Completion
from webapp.api.schemas import ERRORS
from webapp.api.streaming import STREAM, Position, completion_events, event_stream, json_response

router = Router(auth=NeedsAsync("chat"))


@router.post(
    "",
    response={200: ChatCompletion, **ERRORS},
    openapi_extra=STREAM,
    summary="Create a chat completion",
)
async def create_chat_completion(request: HttpRequest, body: CreateChatCompletion) -> Any:
    """The model's answer to these messages: whole, or with `stream` as server-sent events."""
    who = caller(request)
    position = Position.asked_for(request, body.choices)
    following = Following(who, [uuid.uuid4() for _ in range(body.choices)], param="messages")
    try:
        started = await following.begin(
            partial(
                services.start_completion,
                caller=who,
                ids=following.ids,
                kind=Completion.Kind.CHAT,
                model=body.model,
                prompts=[body.prompt()],
                params=body.params(),
                seed=body.seed,
                request=_repeated_in_the_answer(body),
                metadata=body.metadata,
                store=bool(body.store),
            )
        )
        if body.store:
            following.resumable = started.completion.pk
        return await _answer(following, started, position, stream=bool(body.stream))
    except BaseException:
        following.close()
        raise


async def _answer(
    following: Following, started: services.Started, position: Position, *, stream: bool
) -> HttpResponseBase:
    completion, model = started.completion, started.model
    if not stream:
        choices = await following.whole()
        following.close()
        return json_response(whole(completion, model, choices), started.headers)
    await following.admitted()
    shapes = Chunks(completion, model, len(following.choices), completion.request.get("include_usage", False))
    return event_stream(following, completion_events(following, shapes, position), started.headers)


def _repeated_in_the_answer(body: CreateChatCompletion) -> dict[str, Any]:
    asked = {"logprobs": body.logprobs, "include_usage": body.include_usage, "user": body.user}
    return {name: value for name, value in asked.items() if value}
