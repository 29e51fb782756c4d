"""From a request's fields, with OpenAI's names and ranges, to how the engine samples. Knows no endpoint.

These are plain pydantic models: ninja's Schema reads attributes of objects, and checks every message of a long
conversation twice for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from inference.parameters import JsonObject, JsonSchema, ResponseFormat, SamplingParams

MAX_CHOICES = 16
# top_p may be 0 in OpenAI's API, which means the likeliest token.
LEAST_TOP_P = 1e-6
# Of a schema: far more than a grammar takes, and far less than makes any reader or writer of JSON give up.
_MAX_DEPTH = 200
UNSUPPORTED = "unsupported"  # the type of error that becomes `unsupported_parameter`


class Body(BaseModel):
    """What a request may hold, and nothing else: an unknown field is refused by its name."""

    model_config = ConfigDict(extra="forbid", strict=True)


def without_harmless(body: Any, harmless: Mapping[str, tuple[Any, ...]]) -> Any:
    """`body` without fields this API does not have where they ask for nothing: null, or what would be so anyway."""
    if not isinstance(body, dict):
        return body
    return {
        name: value
        for name, value in body.items()
        if name not in harmless or not (value is None or _is_among(value, harmless[name]))
    }


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
    # 1 is not True here, nor 0 False.
    return any(type(value) is type(other) and value == other for other in values)


def refuse_by_name(names: set[str]) -> BeforeValidator:
    """Of a field whose values include some that OpenAI's API has and this one does not."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in names:
            raise PydanticCustomError(UNSUPPORTED, "{name}", {"name": value})
        return value

    return BeforeValidator(check)


def _text_or_list(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a text"


StopText = Annotated[str, Field(min_length=1, max_length=500)]
# Tags that are no identifiers: they do not show in the name of what was wrong.
Stop = Annotated[
    Annotated[StopText, Tag("a text")] | Annotated[list[StopText], Field(max_length=4), Tag("a list")],
    Discriminator(_text_or_list),
]


def _of_token_ids(value: Any) -> Any:
    if isinstance(value, dict):
        wrong = next((key for key in value if not (key.isascii() and key.isdigit() and len(key) < 10)), None)
        if wrong is not None:
            raise PydanticCustomError("value_error", "its keys have to be token ids")
        return {int(key): bias for key, bias in value.items()}
    return value


LogitBias = Annotated[
    dict[int, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_of_token_ids),
    Field(max_length=1024),
]


def _no_obfuscation(value: Any) -> Any:
    if value is True:
        raise PydanticCustomError(UNSUPPORTED, "{name}", {"name": "include_obfuscation"})
    return value


NoObfuscation = Annotated[Literal[False] | None, BeforeValidator(_no_obfuscation)]


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: NoObfuscation = None


class SamplingFields(Body):
    """What chat completions and completions have in common."""

    model: str = Field(max_length=200)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    user: str | None = Field(None, max_length=512)

    def sampling(
        self,
        *,
        max_tokens: int | None,
        logprobs: int | None,
        prompt_logprobs: int | None = None,
        response_format: ResponseFormat | None = None,
    ) -> SamplingParams:
        stop = self.stop or ()
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=None if self.top_p is None else max(self.top_p, LEAST_TOP_P),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            logit_bias=self.logit_bias or {},
            response_format=response_format,
        )

    @model_validator(mode="after")
    def _stream_options_with_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "it is only for requests with stream, which this one is not")
        return self

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def wrong(param: str, reason: str) -> PydanticCustomError:
    """For a validator of a whole request: which of its fields is not as it has to be."""
    return PydanticCustomError("value_error", "{reason}", {"reason": reason, "param": param})


# --- response_format ---------------------------------------------------------------------------------------------


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


def _that_can_be_written(schema: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [schema]
    for _depth in range(_MAX_DEPTH):
        inner = [list(part.values()) if isinstance(part, dict) else part for part in level]
        level = [value for part in inner if isinstance(part, list) for value in part]
        if not level:
            return schema
    raise PydanticCustomError("value_error", "it is nested too deeply")


SchemaObject = Annotated[dict[str, Any], AfterValidator(_that_can_be_written)]


class NamedSchema(Body):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    json_schema: SchemaObject | None = Field(None, alias="schema")
    strict: bool | None = None  # it is kept to either way


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


_FORMATS = {"text": "of text", "json_object": "of an object", "json_schema": "of a schema"}


def _kind_of_format(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return _FORMATS.get(kind) if isinstance(kind, str) else None


# Of a union of formats with the tags above.
ONE_OF_FORMATS = Discriminator(
    _kind_of_format,
    custom_error_type="unknown_format",
    custom_error_message="its type has to be text, json_object or json_schema",
)
Format = Annotated[
    Annotated[TextFormat, Tag("of text")]
    | Annotated[JsonObjectFormat, Tag("of an object")]
    | Annotated[JsonSchemaFormat, Tag("of a schema")],
    ONE_OF_FORMATS,
]


def response_format_of(
    given: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
) -> ResponseFormat | None:
    if isinstance(given, JsonObjectFormat):
        return JsonObject()
    if isinstance(given, JsonSchemaFormat):
        schema = given.json_schema.json_schema
        # As text: a database does not keep the order of an object's keys, and the answer's follow it.
        return JsonObject() if schema is None else JsonSchema(json.dumps(schema))
    return None


# --- metadata ----------------------------------------------------------------------------------------------------


def _of_few(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if len(key) > 64 or len(text) > 512:
            raise PydanticCustomError("value_error", "keys have at most 64 characters, and values 512")
    return value


Metadata = Annotated[dict[str, str], Field(max_length=16), AfterValidator(_of_few)]
