"""/v1/responses: answers that are kept, and gone on from. The text part of OpenAI's Responses API."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from ninja import Query, Router

from inference.models import Generation
from webapp.api import access, idempotency, services
from webapp.api.auth import NeedsAsync
from webapp.api.callers import Caller, caller
from webapp.api.following import Following
from webapp.api.lists import Order, no_such_place
from webapp.api.models import Completion
from webapp.api.response_answers import Events, as_response, unbegun
from webapp.api.response_items import Item, as_json, as_kept, as_prompt, items_of, new_items, said_after
from webapp.api.response_schemas import CreateResponse, DeletedResponse, InputItems, Response
from webapp.api.streaming import STREAM, event_stream, json_response
from webapp.core.errors import NotFound, UserError

router = Router(auth=NeedsAsync("chat"))
_KIND = Completion.Kind.RESPONSE
# How long cancelling waits for the end; a worker that is well takes a decode step.
_CANCEL_SECONDS = 5.0


@router.post("", response=Response, openapi_extra=STREAM, summary="Create a response")
async def create_response(request: HttpRequest, body: CreateResponse) -> Any:
    """The model's answer to a text or to items, alone or going on from an earlier response: whole, with `stream` as
    server-sent events, or with `background` later. It is kept unless `store` is false."""
    if (before := idempotency.repeated(request)) is not None:
        generation = await _read(before)
        if generation is None:
            raise NotFound(_("That response"))
        after = _last_event_id(request)
        return await _answer_again(request, before, generation, stream=bool(body.stream), after=after)
    generation_id = uuid4()
    following = Following(caller(request), [generation_id], param="input", lasting=bool(body.background))
    try:
        started = await following.begin(partial(_start, request, body, generation_id))
        completion = started.completion
        if idempotency.key_of(request) is not None or (body.stream and body.is_stored):
            following.resumable = completion.pk
        if not body.background:
            await _admitted(following, completion)
        if body.stream:
            return _stream(following, completion, started.headers)
        if not body.background:
            generation = await _ended(following, completion)
        else:
            generation = unbegun(generation_id)
        following.close()
        return json_response(as_response(completion, generation), started.headers)
    except BaseException:
        following.close()
        raise


@router.get(
    "/{response_id}",
    response=Response,
    openapi_extra=STREAM,
    summary="Retrieve a response",
)
async def retrieve_response(
    request: HttpRequest,
    response_id: str,
    stream: bool = False,
    starting_after: int | None = Query(None, ge=0),
) -> Any:
    """As it is now; with `stream` its events, behind the one with the sequence_number `starting_after` or behind the
    Last-Event-ID, and those to come."""
    completion, generation = await sync_to_async(_own)(caller(request), response_id)
    if not stream:
        return json_response(as_response(completion, generation))
    after = starting_after if starting_after is not None else _last_event_id(request)
    return await _answer_again(request, completion, generation, stream=True, after=after)


@router.post("/{response_id}/cancel", response=Response, summary="Cancel a response")
@idempotency.repeatable
async def cancel_response(request: HttpRequest, response_id: str) -> Any:
    """What it said so far is kept. Cancelling one that has ended is no error."""
    who = caller(request)

    def cancel() -> Generation:
        _completion, generation = _own(who, response_id)
        services.cancel_generations(ids=[generation.id])
        return generation

    generation = await sync_to_async(cancel)()
    following = Following(who, [generation.id], param="input", rows=[generation], lasting=True)
    try:
        with contextlib.suppress(UserError, TimeoutError):
            await asyncio.wait_for(following.whole(), _CANCEL_SECONDS)
    finally:
        following.close()
    return json_response(as_response(*await sync_to_async(_own)(who, response_id)))


@router.delete("/{response_id}", response=DeletedResponse, summary="Delete a response")
async def delete_response(request: HttpRequest, response_id: str) -> Any:
    """Those that went on from it keep what they need of it."""

    def delete() -> None:
        services.delete_completion(completion=_own(caller(request), response_id)[0])

    await sync_to_async(delete)()
    return DeletedResponse(id=response_id)


@router.get(
    "/{response_id}/input_items",
    response=InputItems,
    summary="List a response's input items",
)
async def list_input_items(
    request: HttpRequest,
    response_id: str,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: Order = "desc",
) -> Any:
    """What it was made from, the last first: what was sent with it, and what was said before it in its chain."""
    found = await sync_to_async(lambda: items_of(*_own(caller(request), response_id)))()
    if order == "desc":
        found.reverse()
    if after is not None:
        places = [place for place, item in enumerate(found, 1) if item.id == after]
        if not places:
            raise no_such_place(after)
        found = found[places[0] :]
    page = [as_json(item) for item in found[:limit]]
    return {
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(found) > limit,
    }


# --- what these do alike -----------------------------------------------------------------------------------------


def _start(request: HttpRequest, body: CreateResponse, generation_id: UUID) -> services.Started:
    who = caller(request)
    previous, before = _previous(who, body.previous_response_id)
    items = [*before, *new_items(body.items())]
    return services.start_completion(
        caller=who,
        ids=[generation_id],
        kind=_KIND,
        model=body.model,
        prompts=[as_prompt(items, body.instructions)],
        params=body.params(),
        request=body.repeated_in_the_answer() | {"items": as_kept(items)},
        metadata=body.metadata,
        store=body.is_stored,
        previous=previous,
        bind=partial(idempotency.bind, request),
    )


def _previous(who: Caller, response_id: str | None) -> tuple[Completion | None, list[Item]]:
    """Raises UserError `previous_response_not_found`, `previous_response_not_finished`."""
    if response_id is None:
        return None, []
    param = "previous_response_id"
    try:
        completion, generation = _own(who, response_id)
    except NotFound:
        message = _(
            "The previous response “%(id)s” does not exist, was not stored, or is not yours to go on from."
        )
        raise UserError("previous_response_not_found", message % {"id": response_id}, param=param) from None
    if not generation.is_finished:
        message = _("The previous response is still being written. Wait for its end, or cancel it.")
        raise UserError("previous_response_not_finished", message, param=param)
    return completion, said_after(completion, generation)


def _own(who: Caller, response_id: str) -> tuple[Completion, Generation]:
    """A stored response of the caller's. Raises NotFound."""
    completion = access.get_completion(who, response_id, _KIND)
    rows = access.generations_of([completion])[completion.pk]
    if not rows:
        raise NotFound(_("That response"))
    return completion, rows[0]


async def _read(completion: Completion) -> Generation | None:
    rows = await sync_to_async(access.generations_of)([completion])
    return next(iter(rows[completion.pk]), None)


async def _answer_again(
    request: HttpRequest, completion: Completion, generation: Generation, *, stream: bool, after: int
) -> HttpResponseBase:
    """One that was begun before."""
    is_background = completion.request.get("background", False)
    following = Following(
        caller(request),
        [generation.id],
        param="input",
        resumable=completion.pk,
        rows=[generation],
        lasting=is_background,
    )
    try:
        if stream:
            return _stream(following, completion, {}, after)
        if not is_background:
            generation = await _ended(following, completion)
        following.close()
        return json_response(as_response(completion, generation))
    except BaseException:
        following.close()
        raise


def _stream(
    following: Following, completion: Completion, headers: dict[str, str], after: int = -1
) -> HttpResponseBase:
    events = Events(completion, following.ids[0], after)
    return event_stream(following, events.stream(following, partial(_read, completion)), headers)


async def _admitted(following: Following, completion: Completion) -> None:
    """Until a worker has taken it. Raises UserError where none does; then it never was."""
    try:
        await following.admitted()
    except UserError as error:
        if following.choices[0].ended:
            await sync_to_async(services.delete_completion)(completion=completion)
        if error.code == "invalid_response_format":
            error.param = "text.format"
        raise


async def _ended(following: Following, completion: Completion) -> Generation:
    """The row once it has ended, however it ended. Raises UserError where the caller is let go before."""
    try:
        await following.whole()
    except UserError:
        if not following.choices[0].ended:
            raise
    generation = await _read(completion)
    if generation is None:
        raise NotFound(_("That response"))
    return generation


def _last_event_id(request: HttpRequest) -> int:
    given = request.headers.get("Last-Event-ID")
    if not given:
        return -1
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        message = _("That is not the id of an event of this stream.")
        raise UserError("invalid_value", message, param="Last-Event-ID")
    return int(given)
