"""/v1/moderations: what a classifier of the workspace's own says of texts, in the shape of OpenAI's moderation.

Its labels are the categories. A category is true where the label's probability is 0.5 or more, and a text is flagged
where any is. Labels whose name says that nothing is wrong (`HARMLESS`) are never true and flag nothing; their
probability is told all the same. A classifier that was trained with no such label flags whatever it is sure of.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Router, Schema
from pydantic import Field, WithJsonSchema

from inference.formats.classifier_card import THRESHOLD, VALUE
from inference.models import ServedModel
from inference.services import Prompt
from webapp.accounts.models import Workspace
from webapp.api.access import model_named
from webapp.api.auth import NeedsAsync
from webapp.api.callers import caller
from webapp.api.errors import Unsupported
from webapp.api.idempotency import repeatable
from webapp.api.inputs import TEXT_SCHEMAS, texts_of
from webapp.api.models import Completion
from webapp.api.reading import read_texts
from webapp.api.sampling import Body
from webapp.api.streaming import json_response
from webapp.core.errors import UserError

router = Router(auth=NeedsAsync("chat"))

HARMLESS = re.compile(
    r"ok|okay|safe|none|clean|normal|neutral|benign|harmless|allowed|acceptable|appropriate|unflagged|ham|no|false|0"
    r"|(no|non|not)[ _-].*|正常|安全|无害|合规|无|否",
    re.IGNORECASE,
)
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string", "minLength": 1}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
# Texts, or parts of one text as OpenAI has them; checked by `_prompts`.
_Input = Annotated[
    Any,
    WithJsonSchema({"anyOf": [*TEXT_SCHEMAS, {"type": "array", "items": _PART, "minItems": 1}]}),
]


class CreateModeration(Body):
    input: _Input
    model: str | None = Field(None, max_length=200)


class Verdict(Schema):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class Moderation(Schema):
    id: str
    model: str
    results: list[Verdict]


@router.post("", response=Moderation, summary="Create a moderation")
@repeatable
async def create_moderation(request: HttpRequest, body: CreateModeration) -> Any:
    """What the classifier `model` says of each text: its labels as categories, flagged from a probability of 0.5 on."""
    who, prompts = caller(request), _prompts(body.input)
    model = await sync_to_async(_classifier)(who.workspace, body.model)
    readings = await read_texts(
        who, kind=Completion.Kind.MODERATION, model=model, prompts=prompts, check=_refuse_numbers
    )
    results = [_verdict(result["scores"]) for result in readings.results]
    answer = {"id": f"modr-{uuid4().hex}", "model": model.name, "results": results}
    return json_response(answer, readings.headers)


def _classifier(workspace: Workspace, name: str | None) -> ServedModel:
    """Raises UserError `model_not_found`, also where none is named: none has been released for everybody's texts yet;
    `wrong_kind_of_model` for what judges nothing."""
    if name is None:
        message = _(
            "No classifier has been released for moderation here yet. Name one of your workspace's own as “model”: "
            "GET /v1/models lists them."
        )
        raise UserError("model_not_found", message, status=404, param="model")
    model = model_named(workspace, name)
    if model.kind != ServedModel.Kind.CLASSIFIER:
        message = _("“%(name)s” is no classifier: it was not trained to judge texts.")
        raise UserError("wrong_kind_of_model", message % {"name": name}, param="model")
    return model


def _prompts(value: Any) -> list[Prompt]:
    """Raises UserError."""
    if not (isinstance(value, list) and value and all(isinstance(part, dict) for part in value)):
        return texts_of(value)
    texts = []
    for index, part in enumerate(value):
        param = f"input.{index}"
        if part.get("type") != "text":
            raise Unsupported(f"{param}.type", _("Only texts are judged here, no images."))
        if not isinstance(part.get("text"), str) or not part["text"] or part.keys() - {"type", "text"}:
            message = _("“%(name)s” has to have a text and nothing else.") % {"name": param}
            raise UserError("invalid_type", message, param=param)
        texts.append(part["text"])
    return [Prompt(prompt="\n".join(texts))]


def _refuse_numbers(result: dict[str, Any]) -> None:
    if result["scores"].keys() == {VALUE}:
        message = _("This model gives a number and no labels, so it cannot say what is to be flagged.")
        raise UserError("wrong_kind_of_model", message, param="model")


def _verdict(scores: dict[str, float]) -> dict[str, Any]:
    categories = {
        label: score >= THRESHOLD and HARMLESS.fullmatch(label.strip()) is None
        for label, score in scores.items()
    }
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {label: ["text"] for label in scores},
    }
