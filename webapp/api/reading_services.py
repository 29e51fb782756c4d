"""The writes behind texts that are read without an answer: a completion for the request, a generation for each text,
both gone as soon as the results are there. What a crash leaves behind goes as all that is not stored does.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from django.db import transaction
from django.utils import timezone

from inference import services as inference
from inference.models import Generation, ServedModel
from webapp.accounts import limits
from webapp.api import services
from webapp.api.callers import Caller
from webapp.api.models import Completion
from webapp.core import sql

_PURPOSES = {Completion.Kind.EMBEDDING: "embedding", Completion.Kind.MODERATION: "classification"}


def start_reading(
    *, caller: Caller, kind: Completion.Kind, model: ServedModel, prompts: Sequence[inference.Prompt]
) -> services.Started:
    """Admits a request to read these; `start_texts` then starts them, in as many parts as suits, and `end_reading` ends
    the request.

    Raises UserError `no_worker`, `rate_limit_exceeded`, `quota_exceeded`, having recorded nothing.
    """
    services.workers_here()
    completion = Completion(
        id=uuid4(),
        workspace_id=caller.workspace.pk,
        user_id=caller.user.pk,
        api_key_id=caller.key.pk if caller.key else None,
        kind=kind,
        model_name=model.name,
    )
    try:
        with transaction.atomic():
            sql.insert([completion])
            headers = limits.admit(
                workspace_id=caller.workspace.pk,
                user_id=caller.user.pk,
                api_key_id=completion.api_key_id,
                tokens=services.tokens_of(prompts),
                slot=completion.pk,
            )
    except BaseException:
        limits.withdraw(slot=completion.pk)
        raise
    return services.Started(completion, model, headers)


def start_texts(
    *, started: services.Started, ids: Sequence[UUID], prompts: Sequence[inference.Prompt], first: int
) -> None:
    """Starts a generation for each of these texts, under `ids`; `first` is the place of the first in the request.

    Raises UserError `busy`, having recorded nothing.
    """
    completion = started.completion
    with transaction.atomic():
        inference.start_generations(
            ids=ids,
            workspace_id=completion.workspace_id,
            model=started.model,
            prompts=prompts,
            purpose=_PURPOSES[Completion.Kind(completion.kind)],
            user_id=completion.user_id,
            api_key_id=completion.api_key_id,
            call_id=completion.pk,
            first_choice=first,
        )


def end_reading(*, started: services.Started) -> None:
    """No more texts will come. What of them has been read is forgotten; what is still running ends by itself, and goes
    later."""
    call = started.completion.pk
    with transaction.atomic():
        texts = Generation.objects.filter(call_id=call)
        texts.filter(state__in=Generation.TERMINAL).delete()
        if not texts.exists():
            started.completion.delete()
    limits.settle(slot=call, tokens=0, is_last=True, day=timezone.now().date())
