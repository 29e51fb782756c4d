"""Every write to what programs ask for: completions and their generations, begun, cancelled, deleted, forgotten."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from django.utils.translation import gettext as _
from redis.exceptions import RedisError

from inference import services as inference
from inference.models import Generation, ServedModel
from inference.parameters import SamplingParams
from inference.serving import Workers
from webapp.accounts import limits
from webapp.api import access, failures
from webapp.api.callers import Caller
from webapp.api.models import Completion
from webapp.core import sql

logger = logging.getLogger(__name__)

_FORGET_AT_ONCE = 500
# What an answer without a limit is taken for, when limits are asked; what it really was is counted at its end.
_USUAL_TOKENS = 256
_READ_TTL_SECONDS = 10


@dataclass(frozen=True)
class Started:
    """A completion that is recorded and under way."""

    completion: Completion
    model: ServedModel
    headers: dict[str, str]  # the x-ratelimit-* ones


def start_completion(
    *,
    caller: Caller,
    ids: Sequence[UUID],
    kind: Completion.Kind,
    model: str,
    prompts: Sequence[inference.Prompt],
    params: SamplingParams,
    seed: int | None = None,
    request: dict[str, Any] | None = None,
    metadata: dict[str, str] | None = None,
    store: bool = False,
    previous: Completion | None = None,
    bind: Callable[[Completion], None] | None = None,
) -> Started:
    """Records a completion and its generations, with these `ids`, and starts them.

    `request` is what of the request the answer repeats; `bind` is called with the completion in the transaction that
    records it. Raises ModelNotFound, and UserError `wrong_kind_of_model`, `no_worker`, `busy`, `rate_limit_exceeded`,
    `quota_exceeded`, having recorded nothing.
    """
    answering = access.writing_model(caller.workspace, model)
    workers = workers_here()
    completion = Completion(
        id=uuid4(),
        workspace_id=caller.workspace.pk,
        user_id=caller.user.pk,
        api_key_id=caller.key.pk if caller.key else None,
        kind=kind.value,
        model_name=answering.name,
        request=request or {},
        metadata=metadata or {},
        store=store,
        previous=previous,
    )
    try:
        with transaction.atomic():
            sql.insert([completion])
            if bind is not None:
                bind(completion)
            inference.start_generations(
                ids=ids,
                workspace_id=caller.workspace.pk,
                model=answering,
                prompts=prompts,
                params=params,
                seed=seed,
                purpose="api",
                user_id=caller.user.pk,
                api_key_id=completion.api_key_id,
                call_id=completion.pk,
                workers=workers,
            )
            headers = limits.admit(
                workspace_id=caller.workspace.pk,
                user_id=caller.user.pk,
                api_key_id=completion.api_key_id,
                tokens=_about(prompts, len(ids), params),
                slot=completion.pk,
            )
    except BaseException:
        limits.withdraw(slot=completion.pk)
        raise
    return Started(completion, answering, headers)


def workers_here() -> Workers:
    """Raises UserError `no_worker` where nobody would answer: a program is told so at once instead of waiting."""
    workers = Workers()
    if not workers.are_here:
        raise failures.unavailable(
            _("No model worker is running right now. Try again in a moment."), "no_worker"
        )
    return workers


def cancel_generations(*, ids: Collection[UUID]) -> None:
    """Ends those that have not ended yet; what they said so far is kept."""
    for id_ in ids:
        with transaction.atomic():
            inference.cancel_generation(generation_id=id_)


def update_metadata(*, completion: Completion, metadata: dict[str, str]) -> None:
    completion.metadata = metadata
    completion.save(update_fields=["metadata"])


def delete_completion(*, completion: Completion) -> None:
    """Deletes it with its generations, and stops what still runs."""
    delete_completions(ids=[completion.pk])


@transaction.atomic
def delete_completions(*, ids: list[UUID]) -> None:
    generations = Generation.objects.filter(call_id__in=ids).values_list("id", flat=True)
    inference.delete_generations(ids=list(generations))
    Completion.objects.filter(pk__in=ids).delete()


def forget_completions() -> int:
    """Deletes what was not to be stored, once its log is gone, from which a stream is resumed. The number of
    completions."""
    before = timezone.now() - timedelta(seconds=settings.INFERENCE_LOG_TTL_SECONDS)
    calls = Generation.objects.filter(call_id=OuterRef("pk"))
    lately = calls.exclude(finished_at__lt=before)
    passing = Completion.objects.filter(store=False, created_at__lt=before).exclude(Exists(lately))
    forgotten = 0
    while ids := list(passing.values_list("pk", flat=True)[:_FORGET_AT_ONCE]):
        with transaction.atomic():
            # By hand: the ORM would read all that was asked and answered to see what goes with it, and nothing does.
            places = ", ".join(["%s"] * len(ids))
            sql.execute(f"DELETE FROM inference_generation WHERE call_id IN ({places})", *ids)  # noqa: S608 - of places
            Completion.objects.filter(pk__in=ids).delete()
        forgotten += len(ids)
    return forgotten


# --- who reads what ---------------------------------------------------------------------------------------------


def mark_as_read(completion_ids: Collection[UUID]) -> None:
    """Says to all processes of the site that somebody reads these. Call it again within _READ_TTL_SECONDS."""
    if not completion_ids:
        return
    with inference.token_log().connection.pipeline(transaction=False) as pipe:
        for id_ in completion_ids:
            pipe.set(_read_key(id_), 1, ex=_READ_TTL_SECONDS)
        pipe.execute()


def is_read(completion_id: UUID) -> bool:
    """Whether anybody does; True, too, where the broker does not say."""
    try:
        return bool(inference.token_log().connection.exists(_read_key(completion_id)))
    except RedisError as error:
        logger.warning("whether completion %s is still read is not known: %s", completion_id, error)
        return True


def _read_key(completion_id: UUID) -> str:
    return f"fw:read:{completion_id}"


def _about(prompts: Sequence[inference.Prompt], choices: int, params: SamplingParams) -> int:
    """Tokens that a call will take, roughly."""
    return tokens_of(prompts, choices * (_USUAL_TOKENS if params.max_tokens is None else params.max_tokens))


def tokens_of(prompts: Sequence[inference.Prompt], answer: int = 0) -> int:
    """Of prompts and an answer of so many tokens, roughly."""
    ids = sum(len(prompt.prompt) for prompt in prompts if isinstance(prompt.prompt, list))
    texts = [prompt.prompt for prompt in prompts if isinstance(prompt.prompt, str)]
    texts += [message["content"] for prompt in prompts for message in prompt.messages]
    return limits.estimate_tokens(texts, answer + ids)
