"""/v1/embeddings: texts, or token ids, as vectors of length 1 in the model's own space."""

from __future__ import annotations

import struct
from base64 import b64decode
from functools import partial
from typing import Any, Literal

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Router, Schema
from pydantic import Field

from webapp.api.access import writing_model
from webapp.api.auth import NeedsAsync
from webapp.api.callers import caller
from webapp.api.idempotency import repeatable
from webapp.api.inputs import TextsOrIds, prompts_of
from webapp.api.models import Completion
from webapp.api.reading import read_texts
from webapp.api.sampling import Body
from webapp.api.streaming import json_response
from webapp.core.errors import UserError

router = Router(auth=NeedsAsync("chat"))


class CreateEmbeddings(Body):
    model: str = Field(max_length=200)
    input: TextsOrIds
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)  # the model's own, or it is refused
    user: str | None = Field(None, max_length=512)


class Embedding(Schema):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str  # base64 of little-endian float32 where that was asked for


class EmbeddingUsage(Schema):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Schema):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post("", response=Embeddings, summary="Create embeddings")
@repeatable
async def create_embeddings(request: HttpRequest, body: CreateEmbeddings) -> Any:
    """Each input's vector, in the order of the inputs: up to 2,048 texts, or lists of the model's token ids. A vector
    is the mean of what the model makes of all tokens, with length 1."""
    who, prompts = caller(request), prompts_of(body.input)
    model = await sync_to_async(writing_model)(who.workspace, body.model)
    readings = await read_texts(
        who,
        kind=Completion.Kind.EMBEDDING,
        model=model,
        prompts=prompts,
        check=partial(_check_dimensions, body.dimensions),
    )
    vectors = [result["embedding"] for result in readings.results]
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector if body.encoding_format == "base64" else _floats(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": readings.prompt_tokens, "total_tokens": readings.prompt_tokens}
    answer = {"object": "list", "data": data, "model": model.name, "usage": usage}
    return json_response(answer, readings.headers)


def _check_dimensions(asked: int | None, result: dict[str, Any]) -> None:
    size = len(b64decode(result["embedding"])) // 4
    if asked is not None and asked != size:
        message = _("This model's vectors have %(size)s dimensions, and are not cut. Leave “dimensions” out.")
        raise UserError("unsupported_value", message % {"size": size}, param="dimensions")


def _floats(vector: str) -> tuple[float, ...]:
    packed = b64decode(vector)
    return struct.unpack(f"<{len(packed) // 4}f", packed)
