"""What a (legacy) completion is asked with and what it looks like, as OpenAI documents it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from ninja import Schema
from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from inference.parameters import SamplingParams
from inference.services import Prompt
from webapp.api.chat_completion_schemas import Usage
from webapp.api.sampling import UNSUPPORTED, SamplingFields, without_harmless, wrong

_USUAL_MAX_TOKENS = 16  # OpenAI's
MAX_CHOICES_OF_ALL = 128
_HARMLESS: dict[str, tuple[Any, ...]] = {"suffix": ("",), "service_tier": ("auto", "default")}

TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


def _kind_of_prompt(value: Any) -> str:
    if not isinstance(value, list):
        return "a text"
    first = value[0] if value else ""
    return "of ids" if isinstance(first, list) else "as ids" if isinstance(first, int) else "of texts"


# Tags that cannot be taken for a field's name.
PromptField = Annotated[
    Annotated[str, Tag("a text")]
    | Annotated[list[str], Field(min_length=1), Tag("of texts")]
    | Annotated[TokenIds, Tag("as ids")]
    | Annotated[list[TokenIds], Field(min_length=1), Tag("of ids")],
    Discriminator(_kind_of_prompt),
]


class CreateCompletion(SamplingFields):
    prompt: PromptField
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    max_tokens: int | None = Field(None, ge=0, le=10_000_000)

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, value: Any) -> Any:
        return without_harmless(value, _HARMLESS)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.best_of is not None and self.best_of != self.choices:
            # All that is written is answered; nothing is chosen of it.
            raise PydanticCustomError(UNSUPPORTED, "{name}", {"name": "best_of", "param": "best_of"})
        if self.max_tokens == 0 and not self.echo:
            raise wrong("max_tokens", "it may be 0 only with echo, for the logprobs of the prompt")
        if self.choices * len(self.prompts()) > MAX_CHOICES_OF_ALL:
            raise wrong("prompt", f"there are at most {MAX_CHOICES_OF_ALL} choices of all prompts together")
        return self

    def prompts(self) -> list[Prompt]:
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [Prompt(prompt=self.prompt)]
        return [Prompt(prompt=prompt) for prompt in self.prompt]

    def params(self) -> SamplingParams:
        max_tokens = _USUAL_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        reads = self.echo and (
            self.logprobs is not None or max_tokens == 0 or not isinstance(self.prompts()[0].prompt, str)
        )
        return self.sampling(
            max_tokens=max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=(self.logprobs or 0) if reads else None,
        )


class CompletionLogprobs(Schema):
    """Lists with an item for each token; of a prompt's first token nothing is known."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Schema):
    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(Schema):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
