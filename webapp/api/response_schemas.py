"""What a response is asked with and what it looks like: the text part of OpenAI's Responses API."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from ninja import Schema
from pydantic import Discriminator, Field, Tag, model_validator

from inference.parameters import JsonObject, JsonSchema, ResponseFormat, SamplingParams
from webapp.api.sampling import (
    LEAST_TOP_P,
    ONE_OF_FORMATS,
    Body,
    JsonObjectFormat,
    Metadata,
    NoObfuscation,
    SchemaObject,
    TextFormat,
    refuse_by_name,
    without_harmless,
    wrong,
)

# OpenAI's parameters that are not supported, with the values that ask for nothing; null does so always.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "context_management": (),
    "conversation": (),
    "include": ([],),
    "max_tool_calls": (),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prompt": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning": ({},),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
# Of an item and its parts: what answers have, so that a program may send them back as they came.
_HARMLESS_IN_ITEMS: dict[str, tuple[Any, ...]] = {
    "phase": (),
    "status": ("completed", "incomplete", "in_progress"),
}
_HARMLESS_IN_PARTS: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "logprobs": ([],),
    "prompt_cache_breakpoint": (),
}
_OTHER_ITEMS = {
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "compaction",
    "computer_call",
    "computer_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "file_search_call",
    "function_call",
    "function_call_output",
    "image_generation_call",
    "item_reference",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "reasoning",
    "shell_call",
    "shell_call_output",
    "web_search_call",
}


# --- what is asked -----------------------------------------------------------------------------------------------


class InputPart(Body):
    type: Annotated[
        Literal["input_text", "output_text"],
        refuse_by_name({"input_image", "input_file", "input_audio", "refusal"}),
    ]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, value: Any) -> Any:
        return without_harmless(value, _HARMLESS_IN_PARTS)


def _text_or_parts(value: Any) -> str:
    return "as parts" if isinstance(value, list) else "as a text"


_Content = Annotated[
    Annotated[str, Tag("as a text")]
    | Annotated[list[InputPart], Field(min_length=1, max_length=1000), Tag("as parts")],
    Discriminator(_text_or_parts),
]


class InputItem(Body):
    type: Annotated[Literal["message"], refuse_by_name(_OTHER_ITEMS)] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: _Content
    id: str | None = Field(
        None, max_length=100
    )  # of an item that came from here; it gets one of its own again

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, value: Any) -> Any:
        return without_harmless(value, _HARMLESS_IN_ITEMS)

    @property
    def text(self) -> str:
        return (
            self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        )


class FlatSchemaFormat(Body):
    type: Literal["json_schema"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    json_schema: SchemaObject = Field(alias="schema")
    strict: bool | None = None  # it is kept to either way


_Format = Annotated[
    Annotated[TextFormat, Tag("of text")]
    | Annotated[JsonObjectFormat, Tag("of an object")]
    | Annotated[FlatSchemaFormat, Tag("of a schema")],
    ONE_OF_FORMATS,
]


class TextOptions(Body):
    format: _Format | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, value: Any) -> Any:
        return without_harmless(value, {"verbosity": ("medium",)})

    def response_format(self) -> ResponseFormat | None:
        if isinstance(self.format, JsonObjectFormat):
            return JsonObject()
        if isinstance(self.format, FlatSchemaFormat):
            return JsonSchema(json.dumps(self.format.json_schema))
        return None

    def repeated_in_the_answer(self) -> dict[str, Any] | None:
        if not isinstance(self.format, FlatSchemaFormat):
            return None if self.format is None else {"type": self.format.type}
        return {
            "type": "json_schema",
            "name": self.format.name,
            "description": self.format.description,
            "schema": self.format.json_schema,
            "strict": True,
        }


class ResponseStreamOptions(Body):
    include_obfuscation: NoObfuscation = None


def _input_or_items(value: Any) -> str:
    return "as items" if isinstance(value, list) else "as a text"


class CreateResponse(Body):
    model: str = Field(max_length=200)
    input: Annotated[
        Annotated[str, Tag("as a text")] | Annotated[list[InputItem], Field(min_length=1), Tag("as items")],
        Discriminator(_input_or_items),
    ]
    background: bool | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=10_000_000)
    metadata: Metadata | None = None
    previous_response_id: str | None = Field(None, max_length=100)
    store: bool | None = None  # true where it is not given
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    text: TextOptions | None = None
    top_p: float | None = Field(None, ge=0, le=1)
    user: str | None = Field(None, max_length=512)

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, value: Any) -> Any:
        return without_harmless(value, _HARMLESS)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.background and not self.is_stored:
            raise wrong("background", "it is only for responses that are stored, to be asked for later")
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "it is only for requests with stream, which this one is not")
        return self

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    def items(self) -> list[InputItem]:
        if isinstance(self.input, str):
            return [InputItem(role="user", content=self.input, id=None)]
        return self.input

    def repeated_in_the_answer(self) -> dict[str, Any]:
        asked = {
            "background": self.background,
            "format": None if self.text is None else self.text.repeated_in_the_answer(),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "previous_response_id": self.previous_response_id,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "user": self.user,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def params(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=None if self.top_p is None else max(self.top_p, LEAST_TOP_P),
            response_format=None if self.text is None else self.text.response_format(),
        )


# --- what it looks like ------------------------------------------------------------------------------------------


class OutputText(Schema):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class InputText(Schema):
    type: Literal["input_text"]
    text: str


class OutputMessage(Schema):
    id: str
    type: Literal["message"]
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class InputMessage(Schema):
    id: str
    type: Literal["message"]
    status: Literal["completed"]
    role: Literal["system", "developer", "user", "assistant"]
    content: list[InputText | OutputText]


class ResponseFailure(Schema):
    code: str
    message: str


class IncompleteDetails(Schema):
    reason: Literal["max_output_tokens"]


class InputTokensDetails(Schema):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Schema):
    reasoning_tokens: int


class ResponseUsage(Schema):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseReasoning(Schema):
    effort: None
    summary: None


class ResponseText(Schema):
    format: dict[str, Any]


class Response(Schema):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: Literal[False]
    previous_response_id: str | None
    reasoning: ResponseReasoning
    service_tier: Literal["default"]
    store: bool
    temperature: float | None  # null: the model's own
    text: ResponseText
    tool_choice: Literal["none"]
    tools: list[Any]
    top_p: float | None
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class DeletedResponse(Schema):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItems(Schema):
    object: Literal["list"] = "list"
    data: list[InputMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool
