"""Shapes that routes of several resources share. What a resource looks like is in the module of its routes."""

from __future__ import annotations

from typing import Any

from ninja import Schema


class ErrorBody(Schema):
    message: str  # a sentence somebody can act on
    type: str
    param: str | None  # what in the request was wrong, as "messages.0.role"
    code: str | None


class Error(Schema):
    """OpenAI's error object: what every answer is that is not a success."""

    error: ErrorBody


# For `response={200: ..., **ERRORS}`: what any route may answer instead.
ERRORS: dict[int, Any] = dict.fromkeys((400, 401, 403, 404, 408, 409, 413, 414, 415, 429, 500, 503), Error)
