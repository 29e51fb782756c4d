"""Texts that a model reads without answering: each gets a vector, or scores. Knows no endpoint's shapes.

They go out in waves, in order, so that a request of two thousand takes no more of the site's queue than its share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils.translation import gettext as _

from inference.models import ServedModel
from inference.services import Prompt
from webapp.api import reading_services, services
from webapp.api.callers import Caller
from webapp.api.following import Choice, Following, run_in_background
from webapp.api.models import Completion
from webapp.core.errors import UserError

# One wave is at most this many texts, and at most this part of what may wait.
_WAVE, _PART_OF_QUEUE = 64, 4
# A later wave that finds the queue full waits for it; the first one is refused, as any request is.
_BUSY_SECONDS, _BUSY_PAUSE = 60.0, 0.5


@dataclass(frozen=True)
class Readings:
    # One for each text: {"embedding": base64} or {"scores": {label: probability}}.
    results: list[dict[str, Any]]
    prompt_tokens: int
    headers: Mapping[str, str]  # the x-ratelimit-* ones


async def read_texts(
    caller: Caller,
    *,
    kind: Completion.Kind,
    model: ServedModel,
    prompts: Sequence[Prompt],
    check: Callable[[dict[str, Any]], None] = lambda result: None,
) -> Readings:
    """`check` is given each result of the first wave, and may raise before the others are computed.

    Raises UserError: those of any request for a model, and for a text that cannot be read one that names it.
    """
    start = partial(reading_services.start_reading, caller=caller, kind=kind, model=model, prompts=prompts)
    started = await sync_to_async(start)()
    size = max(1, min(_WAVE, settings.INFERENCE_MAX_QUEUED // _PART_OF_QUEUE))
    end = partial(reading_services.end_reading, started=started)
    choices: list[Choice] = []
    try:
        while len(choices) < len(prompts):
            at = len(choices)
            choices += await _read_wave(caller, started, prompts, range(len(prompts))[at : at + size])
            if at == 0:
                for choice in choices:
                    check(choice.result)
    except asyncio.CancelledError:
        # The client has hung up, and nothing is waited for any more: it is done all the same.
        run_in_background(sync_to_async(end)())
        raise
    except BaseException:
        await sync_to_async(end)()
        raise
    await sync_to_async(end)()
    return Readings([c.result for c in choices], sum(c.prompt_tokens for c in choices), started.headers)


async def _read_wave(
    caller: Caller, started: services.Started, prompts: Sequence[Prompt], wave: range
) -> list[Choice]:
    """Those of the request's texts that have these places."""
    ids = [uuid4() for _place in wave]
    following = Following(caller, ids, param="input", each=1)
    try:
        start = partial(
            reading_services.start_texts,
            started=started,
            ids=ids,
            prompts=[prompts[place] for place in wave],
            first=wave[0],
        )
        await _begin(following, start, patient=wave[0] > 0)
        return await following.whole()
    except UserError as error:
        failed = next((choice for choice in following.choices if choice.failure is error), None)
        raise error if failed is None or len(prompts) == 1 else _about(error, wave[failed.index]) from None
    finally:
        following.close()


async def _begin(following: Following, start: Callable[[], None], *, patient: bool) -> None:
    give_up_at = time.monotonic() + (_BUSY_SECONDS if patient else 0)
    while True:
        try:
            await following.begin(start)
            return
        except UserError as error:
            if error.code != "busy" or time.monotonic() >= give_up_at:
                raise
        await asyncio.sleep(_BUSY_PAUSE)


def _about(error: UserError, index: int) -> UserError:
    """The same, of one text among others."""
    message = _("Input %(index)s, counted from 0: %(reason)s") % {"index": index, "reason": error.message}
    return UserError(
        error.code, message, status=error.status, retry_after=error.retry_after, param=f"input.{index}"
    )
