"""What chat completions and completions do alike: begin one, follow it, answer it whole or as a stream.

Knows no endpoint: what the answer looks like is the Shapes it is given.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase

from inference.models import ServedModel
from inference.parameters import SamplingParams
from inference.services import Prompt
from webapp.api import access, idempotency, services
from webapp.api.callers import caller
from webapp.api.following import Choice, Following
from webapp.api.models import Completion
from webapp.api.sampling import SamplingFields
from webapp.api.streaming import Position, Shapes, completion_events, event_stream, json_response

# From a completion, its model and the number of its choices.
Shaping = Callable[[Completion, ServedModel, int], Shapes]


async def complete(
    request: HttpRequest,
    body: SamplingFields,
    *,
    kind: Completion.Kind,
    param: str,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    shaping: Shaping,
    asked: dict[str, Any],
    metadata: dict[str, str] | None = None,
    store: bool = False,
) -> HttpResponseBase:
    """Begins what `body` asks for and answers it.

    `param` is where the prompts came from; `asked` is what of the request its answer depends on.
    """
    if (before := idempotency.repeated(request)) is not None:
        return await answer_again(request, before, param=param, shaping=shaping, stream=bool(body.stream))
    who = caller(request)
    count = body.choices * len(prompts)
    position = Position.asked_for(request, count)
    following = Following(who, [uuid.uuid4() for _ in range(count)], param=param, each=body.choices)
    try:
        started = await following.begin(
            partial(
                services.start_completion,
                caller=who,
                ids=following.ids,
                kind=kind,
                model=body.model,
                prompts=prompts,
                params=params,
                seed=body.seed,
                request=asked | ({"include_usage": True} if body.include_usage else {}),
                metadata=metadata,
                store=store,
                bind=partial(idempotency.bind, request),
            )
        )
        if store or idempotency.key_of(request) is not None:
            following.resumable = started.completion.pk
        shapes = shaping(started.completion, started.model, count)
        return await _answer(following, shapes, position, stream=bool(body.stream), headers=started.headers)
    except BaseException:
        following.close()
        raise


async def answer_again(
    request: HttpRequest, completion: Completion, *, param: str, shaping: Shaping, stream: bool
) -> HttpResponseBase:
    """One that was begun before: from its rows, or while it goes on from its logs."""
    rows = (await sync_to_async(access.generations_of)([completion]))[completion.pk]
    position = Position.asked_for(request, len(rows))
    following = Following(
        caller(request),
        [row.id for row in rows],
        param=param,
        resumable=completion.pk,
        rows=rows,
    )
    try:
        shapes = shaping(completion, rows[0].model, len(rows))
        return await _answer(following, shapes, position, stream=stream, headers={})
    except BaseException:
        following.close()
        raise


async def _answer(
    following: Following, shapes: Shapes, position: Position, *, stream: bool, headers: dict[str, str]
) -> HttpResponseBase:
    if stream:
        await following.admitted()
        return event_stream(following, completion_events(following, shapes, position), headers)
    choices: list[Choice] = await following.whole()
    following.close()
    return json_response(shapes.whole(choices), headers)
