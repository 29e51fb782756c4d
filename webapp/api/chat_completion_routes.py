"""/v1/chat/completions: answers to conversations that a program keeps itself; those it asked to store are here, too."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from ninja import Query, Router

from webapp.api import access, services
from webapp.api.auth import NeedsAsync
from webapp.api.callers import caller
from webapp.api.chat_completion_answers import ChatAnswer
from webapp.api.chat_completion_schemas import (
    ChatCompletion,
    ChatCompletions,
    CreateChatCompletion,
    DeletedChatCompletion,
    StoredMessages,
    UpdateChatCompletion,
)
from webapp.api.completing import answer_again, complete
from webapp.api.following import Choice
from webapp.api.lists import BY_METADATA, Order, no_such_place, page_by_time, place_of, with_metadata
from webapp.api.models import Completion
from webapp.api.streaming import STREAM

router = Router(auth=NeedsAsync("chat"))
_KIND = Completion.Kind.CHAT


@router.post(
    "",
    response=ChatCompletion,
    openapi_extra=STREAM,
    summary="Create a chat completion",
)
async def create_chat_completion(request: HttpRequest, body: CreateChatCompletion) -> Any:
    """The model's answer to these messages: whole, or with `stream` as server-sent events."""
    asked = {"logprobs": body.logprobs, "user": body.user}
    return await complete(
        request,
        body,
        kind=_KIND,
        param="messages",
        prompts=[body.prompt()],
        params=body.params(),
        shaping=ChatAnswer,
        asked={name: value for name, value in asked.items() if value},
        metadata=body.metadata,
        store=bool(body.store),
    )


@router.get(
    "",
    response=ChatCompletions,
    summary="List stored chat completions",
    openapi_extra=BY_METADATA,
)
async def list_chat_completions(
    request: HttpRequest,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: Order = "asc",
    model: str = "",
) -> Any:
    """Those that were created with `store`."""
    return await sync_to_async(_listed)(request, after=after, limit=limit, order=order, model=model)


def _listed(
    request: HttpRequest, *, after: str | None, limit: int, order: Order, model: str
) -> dict[str, Any]:
    who = caller(request)
    stored = with_metadata(access.list_completions(who, _KIND), request.GET)
    if model:
        stored = stored.filter(model_name=model)
    last = place_of(after, lambda text: access.get_completion(who, text, _KIND))
    found, has_more = page_by_time([stored], after=last, limit=limit, order=order)
    choices = access.generations_of(found)
    data = [
        ChatAnswer(completion, rows[0].model, len(rows)).whole(
            [Choice.of_row(row, "messages") for row in rows]
        )
        for completion in found
        if (rows := choices[completion.pk])
    ]
    return _page(data, has_more=has_more)


@router.get(
    "/{completion_id}",
    response=ChatCompletion,
    openapi_extra=STREAM,
    summary="Retrieve a stored chat completion",
)
async def retrieve_chat_completion(request: HttpRequest, completion_id: str, stream: bool = False) -> Any:
    """As it was answered, or with `stream` as server-sent events again; waits for one that is not complete yet."""
    completion = await sync_to_async(access.get_completion)(caller(request), completion_id, _KIND)
    return await answer_again(request, completion, param="messages", shaping=ChatAnswer, stream=stream)


@router.post("/{completion_id}", response=ChatCompletion, summary="Update a stored chat completion")
async def update_chat_completion(request: HttpRequest, completion_id: str, body: UpdateChatCompletion) -> Any:
    """Replaces its metadata."""
    completion = await sync_to_async(access.get_completion)(caller(request), completion_id, _KIND)
    await sync_to_async(services.update_metadata)(completion=completion, metadata=body.metadata or {})
    return await answer_again(request, completion, param="messages", shaping=ChatAnswer, stream=False)


@router.delete(
    "/{completion_id}",
    response=DeletedChatCompletion,
    summary="Delete a stored chat completion",
)
async def delete_chat_completion(request: HttpRequest, completion_id: str) -> Any:
    def delete() -> None:
        services.delete_completion(completion=access.get_completion(caller(request), completion_id, _KIND))

    await sync_to_async(delete)()
    return DeletedChatCompletion(id=completion_id, object="chat.completion.deleted", deleted=True)


@router.get(
    "/{completion_id}/messages",
    response=StoredMessages,
    summary="List the messages of a stored chat completion",
)
async def list_chat_messages(
    request: HttpRequest,
    completion_id: str,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: Order = "asc",
) -> Any:
    """What the answer was asked with."""

    def messages() -> list[dict[str, Any]]:
        completion = access.get_completion(caller(request), completion_id, _KIND)
        rows = access.generations_of([completion])[completion.pk]
        return [
            {"id": f"{completion_id}-{at}", "name": None, **message}
            for at, message in enumerate(rows[0].messages if rows else [])
        ]

    found = await sync_to_async(messages)()
    if order == "desc":
        found.reverse()
    if after is not None:
        at = next((n for n, message in enumerate(found, 1) if message["id"] == after), None)
        if at is None:
            raise no_such_place(after)
        found = found[at:]
    return _page(found[:limit], has_more=len(found) > limit)


def _page(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
