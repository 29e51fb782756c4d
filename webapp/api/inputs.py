"""What `input` may be where a model reads texts without answering: one or several, as texts or token ids."""

from __future__ import annotations

from typing import Annotated, Any

from django.utils.translation import gettext as _
from pydantic import WithJsonSchema

from inference.services import Prompt
from webapp.core.errors import UserError

MAX_INPUTS = 2048  # of one request, as OpenAI has it

_TEXT = {"type": "string", "minLength": 1}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_MANY = {"minItems": 1, "maxItems": MAX_INPUTS}
TEXT_SCHEMAS = [_TEXT, {"type": "array", "items": _TEXT, **_MANY}]
# Checked by `prompts_of`, which says which input is wrong and why.
TextsOrIds = Annotated[
    Any,
    WithJsonSchema({"anyOf": [*TEXT_SCHEMAS, _IDS, {"type": "array", "items": _IDS, **_MANY}]}),
]


def prompts_of(value: Any) -> list[Prompt]:
    """Raises UserError `invalid_type`, `invalid_value`, `too_many_inputs`; its param names the first that is wrong."""
    if isinstance(value, list) and value and all(_is_id(part) for part in value):
        return [_ids(value, "input")]
    if isinstance(value, str):
        return [_text(value, "input")]
    prompts = []
    for index, part in enumerate(_several(value)):
        param = f"input.{index}"
        prompts.append(_ids(part, param) if isinstance(part, list) else _text(part, param))
    return prompts


def texts_of(value: Any) -> list[Prompt]:
    """As `prompts_of`, of texts alone."""
    if isinstance(value, str):
        return [_text(value, "input")]
    return [_text(part, f"input.{index}") for index, part in enumerate(_several(value))]


def _several(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UserError("invalid_type", _("“input” has to be a text, or a list of them."), param="input")
    if not value:
        raise UserError("invalid_value", _("“input” is empty."), param="input")
    if len(value) > MAX_INPUTS:
        message = _("“input” has %(count)s inputs; one request takes %(most)s. Send several.")
        values = {"count": len(value), "most": MAX_INPUTS}
        raise UserError("too_many_inputs", message % values, param="input")
    return value


def _text(value: Any, param: str) -> Prompt:
    if not isinstance(value, str):
        raise UserError("invalid_type", _("“%(name)s” has to be a text.") % {"name": param}, param=param)
    if not value:
        raise UserError("invalid_value", _("“%(name)s” is empty.") % {"name": param}, param=param)
    return Prompt(prompt=value)


def _ids(value: list[Any], param: str) -> Prompt:
    if not value or not all(_is_id(part) and part >= 0 for part in value):
        message = _("“%(name)s” has to be a list of token ids: whole numbers, and at least one.")
        raise UserError("invalid_type", message % {"name": param}, param=param)
    return Prompt(prompt=value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
