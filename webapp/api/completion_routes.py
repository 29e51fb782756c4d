"""/v1/completions: texts that the model continues as they are, without a chat template."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router

from inference.models import ServedModel
from webapp.api.auth import NeedsAsync
from webapp.api.completing import complete
from webapp.api.completion_answers import TextAnswer
from webapp.api.completion_schemas import CreateCompletion, TextCompletion
from webapp.api.models import Completion
from webapp.api.streaming import STREAM

router = Router(auth=NeedsAsync("chat"))


@router.post("", response=TextCompletion, openapi_extra=STREAM, summary="Create a completion")
async def create_completion(request: HttpRequest, body: CreateCompletion) -> Any:
    """How the model goes on from each of these prompts: whole, or with `stream` as server-sent events."""
    prompts = body.prompts()

    def shaping(completion: Completion, model: ServedModel, choices: int) -> TextAnswer:
        return TextAnswer(completion, model, prompts, choices)

    return await complete(
        request,
        body,
        kind=Completion.Kind.TEXT,
        param="prompt",
        prompts=prompts,
        params=body.params(),
        shaping=shaping,
        asked=_asked(body),
    )


def _asked(body: CreateCompletion) -> dict[str, Any]:
    asked = {"logprobs": body.logprobs, "echo": body.echo or None, "user": body.user}
    return {name: value for name, value in asked.items() if value is not None}
