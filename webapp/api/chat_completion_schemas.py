"""What a chat completion is asked with and what it looks like, as OpenAI documents it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from ninja import Schema
from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from inference.parameters import SamplingParams
from inference.services import Prompt
from inference.text.speakers import said_by
from webapp.api.sampling import (
    UNSUPPORTED,
    Body,
    Format,
    Metadata,
    SamplingFields,
    refuse_by_name,
    response_format_of,
    without_harmless,
    wrong,
)

# OpenAI's parameters that are not supported, with the values that ask for nothing; null does so always.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
# Of a message: what answers of this API and of OpenAI's have, so that a program may send them back as they came.
_HARMLESS_IN_MESSAGES: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "refusal": (),
    "tool_call_id": (),
    "tool_calls": ([],),
}
_HARMLESS_IN_PARTS: dict[str, tuple[Any, ...]] = {"prompt_cache_breakpoint": ()}


# --- what is asked -----------------------------------------------------------------------------------------------


class TextPart(Body):
    type: Annotated[
        Literal["text"], refuse_by_name({"image_url", "input_audio", "file", "refusal", "video_url"})
    ]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, value: Any) -> Any:
        return without_harmless(value, _HARMLESS_IN_PARTS)


def _text_or_parts(value: Any) -> str:
    return "as parts" if isinstance(value, list) else "as a text"


Content = Annotated[
    Annotated[str, Tag("as a text")]
    | Annotated[list[TextPart], Field(min_length=1, max_length=1000), Tag("as parts")],
    Discriminator(_text_or_parts),
]


class Message(Body):
    role: Annotated[Literal["system", "developer", "user", "assistant"], refuse_by_name({"tool", "function"})]
    content: Content
    # Who of several in that role: the model is told so.
    name: str | None = Field(None, pattern=r"^[^\s<|\\/>]{1,64}$")

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, value: Any) -> Any:
        return without_harmless(value, _HARMLESS_IN_MESSAGES)

    @field_validator("name")
    @classmethod
    def _not_of_the_model(cls, value: str | None, others: ValidationInfo) -> str | None:
        """Told that its answers have a name, a model would begin with it."""
        if value is not None and others.data.get("role") == "assistant":
            raise PydanticCustomError(UNSUPPORTED, "{name}", {"name": "name"})
        return value

    def as_turn(self) -> dict[str, str]:
        role = "system" if self.role == "developer" else self.role
        content = (
            self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        )
        return {"role": role, "content": said_by(self.name, content) if self.name else content}


class CreateChatCompletion(SamplingFields):
    messages: list[Message] = Field(min_length=1)
    logprobs: bool | None = None
    max_completion_tokens: int | None = Field(None, ge=1, le=10_000_000)
    max_tokens: int | None = Field(None, ge=1, le=10_000_000)
    metadata: Metadata | None = None
    response_format: Format | None = None
    store: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, value: Any) -> Any:
        return without_harmless(value, _HARMLESS)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise wrong("top_logprobs", "it is only for requests with logprobs, which this one is not")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise wrong("max_tokens", "it is the old name of max_completion_tokens; send one of them")
        return self

    def prompt(self) -> Prompt:
        return Prompt(messages=[message.as_turn() for message in self.messages])

    def params(self) -> SamplingParams:
        return self.sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            response_format=response_format_of(self.response_format),
        )


class UpdateChatCompletion(Body):
    metadata: Metadata | None


# --- what it looks like ------------------------------------------------------------------------------------------


class TopLogprob(Schema):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(Schema):
    content: list[TokenLogprob] | None
    refusal: None


class Answer(Schema):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Any]


class ChatChoice(Schema):
    index: int
    message: Answer
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class PromptTokensDetails(Schema):
    cached_tokens: int
    audio_tokens: int


class CompletionTokensDetails(Schema):
    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(Schema):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ChatCompletion(Schema):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: Literal["default"]
    system_fingerprint: str
    metadata: dict[str, str] | None = None  # of a stored one


class ChatCompletions(Schema):
    object: Literal["list"]
    data: list[ChatCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedChatCompletion(Schema):
    id: str
    object: Literal["chat.completion.deleted"]
    deleted: Literal[True]


class StoredMessage(Schema):
    id: str
    role: str
    content: str
    name: None


class StoredMessages(Schema):
    object: Literal["list"]
    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool
