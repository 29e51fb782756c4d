"""The writes behind texts that are read without an answer: a completion for the request, a generation for each text,
both gone as soon as the result is there. What a crash leaves behind goes as all that is not stored does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID, uuid4

from django.db import transaction

from inference import services as inference
from inference.models import Generation, ServedModel
from webapp.accounts import limits
from webapp.api import services
from webapp.api.auth import Caller
from webapp.api.models import Completion
from webapp.core import sql

PURPOSES = {Completion.Kind.EMBEDDING: "embedding", Completion.Kind.MODERATION: "classification"}


def start_reading(
    *, caller: Caller, kind: Completion.Kind, model: ServedModel, tokens: int
) -> services.Started:
    """Admits a request of about so many tokens. Its texts are then started with `start_texts`.

    Raises UserError `no_worker`, `rate_limit_exceeded`, `quota_exceeded`, having recorded nothing.
    """
    services.refuse_without_workers()
    completion = Completion(
        id=uuid4(),
        workspace_id=caller.workspace.pk,
        user_id=caller.user.pk,
        api_key_id=caller.key.pk if caller.key else None,
        kind=kind,
        model_name=model.name,
    )
    headers = limits.admit(
        workspace_id=caller.workspace.pk,
        user_id=caller.user.pk,
        api_key_id=completion.api_key_id,
        tokens=tokens,
        slot=completion.pk,
    )
    sql.insert([completion])
    return services.Started(completion, model, headers)


def start_texts(
    *, started: services.Started, ids: Sequence[UUID], prompts: Sequence[inference.Prompt]
) -> None:
    """Starts one generation for each text, under `ids`. Raises UserError `busy`, having recorded nothing."""
    completion = started.completion
    with transaction.atomic():
        inference.start_generations(
            ids=ids,
            workspace_id=completion.workspace_id,
            model=started.model,
            prompts=prompts,
            purpose=PURPOSES[Completion.Kind(completion.kind)],
            user_id=completion.user_id,
            api_key_id=completion.api_key_id,
            call_id=completion.pk,
        )


def forget_texts(*, ids: Collection[UUID]) -> None:
    """Deletes generations whose results have been taken."""
    Generation.objects.filter(id__in=ids).delete()


def forget_reading(*, started: services.Started) -> None:
    """Deletes the request, whose results have all been taken."""
    Completion.objects.filter(pk=started.completion.pk).delete()
