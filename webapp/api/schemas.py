"""What the document says of answers that are no success, whichever the route. What a resource looks like is in the
module of its routes."""

from __future__ import annotations

from collections.abc import Iterable
from http.client import responses
from typing import Any

from ninja import Schema
from ninja.openapi.schema import REF_TEMPLATE
from ninja.schema import NinjaGenerateJsonSchema
from pydantic.json_schema import models_json_schema


class ErrorBody(Schema):
    message: str  # a sentence somebody can act on
    type: str
    param: str | None  # what in the request was wrong, as "messages.0.role"
    code: str | None


class Error(Schema):
    """OpenAI's error object: what every answer is that is not a success."""

    error: ErrorBody


# What any route may answer instead. Not given to each of them: ninja would make a model of each status of each route,
# a thousand, which took longer than everything else about importing the API.
STATUSES = (400, 401, 403, 404, 408, 409, 413, 414, 415, 429, 500, 503)


def errors(statuses: Iterable[int] = STATUSES) -> dict[int, Any]:
    """As an operation's `responses` has them."""
    schema = {"$ref": REF_TEMPLATE.format(model=Error.__name__)}
    return {
        status: {"description": responses[status], "content": {"application/json": {"schema": schema}}}
        for status in statuses
    }


def definitions() -> dict[str, Any]:
    """What `errors` refers to, as the document's `components` has it."""
    _, schema = models_json_schema(
        [(Error, "serialization")], ref_template=REF_TEMPLATE, schema_generator=NinjaGenerateJsonSchema
    )
    found: dict[str, Any] = schema["$defs"]
    return found
