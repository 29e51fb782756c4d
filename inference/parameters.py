"""How a reply is sampled: the parameters people and programs may set. Pure data, shared by site and engine."""

from __future__ import annotations

import msgspec

MAX_TOP_LOGPROBS = 20
_MAX_BIASED = 1024


class JsonObject(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_object", forbid_unknown_fields=True
):
    """The answer is one JSON object, whatever is in it."""


class JsonSchema(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    """The answer is JSON that this schema accepts, its properties in the schema's order."""

    schema: str  # as JSON, since a database does not keep the order of an object's keys


class Regex(msgspec.Struct, frozen=True, tag_field="type", tag="regex", forbid_unknown_fields=True):
    """The answer is a text that the whole of this regular expression matches, in the syntax of Rust's regex crate."""

    pattern: str


ResponseFormat = JsonObject | JsonSchema | Regex


class SamplingParams(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Sampling parameters of one generation, with the usual names and ranges.

    None means "as the model's generation_config says", or, without one, the value in brackets. Ranges are
    checked by `check`, which names the parameter and its range.

    Logprobs are the log-softmax of what the model itself says: before bias, penalties, grammar, temperature and
    truncation, as vLLM gives them. The number is that of the likeliest tokens to list beside the chosen one.

    Under a response_format the model's end tokens and stop_token_ids are possible only where the text is complete; it
    ends by itself where nothing can follow. With ignore_eos it goes on for as long as something can. max_tokens and
    stop cut it off wherever it is.
    """

    max_tokens: int | None = (
        None  # tokens to generate at most [what the context leaves]; 0 scores the prompt only
    )
    temperature: float | None = None  # 0 is greedy; 0..2 [1.0]
    top_p: float | None = None  # nucleus; (0, 1] [1.0]
    top_k: int | None = None  # 0 is off; >= 0 [0]
    min_p: float | None = None  # 0 is off; [0, 1] [0.0]
    repetition_penalty: float | None = None  # as in CTRL (arXiv:1909.05858); (0, 10] [1.0]
    presence_penalty: float = 0.0  # as in OpenAI's API; -2..2
    frequency_penalty: float = 0.0  # as in OpenAI's API; -2..2
    stop: tuple[str, ...] = ()  # strings that end the text and are not part of it; at most 16, none empty
    stop_token_ids: tuple[int, ...] = ()  # tokens that end the text, besides the model's own end tokens
    ignore_eos: bool = False
    logprobs: int | None = None  # of each answered token, with so many alternatives; 0..20
    prompt_logprobs: int | None = None  # of each token of the prompt, likewise
    logit_bias: dict[int, float] = {}  # added to the logits of these tokens; -100..100, at most 1024
    response_format: ResponseFormat | None = None

    def check(self) -> None:
        """Raises ValueError, a sentence, for the first parameter out of range."""
        ranges: list[tuple[str, float | None, float, float]] = [
            ("max_tokens", self.max_tokens, 1 if self.prompt_logprobs is None else 0, 10_000_000),
            ("temperature", self.temperature, 0, 2),
            ("top_p", self.top_p, 1e-6, 1),
            ("top_k", self.top_k, 0, 10_000_000),
            ("min_p", self.min_p, 0, 1),
            ("repetition_penalty", self.repetition_penalty, 1e-6, 10),
            ("presence_penalty", self.presence_penalty, -2, 2),
            ("frequency_penalty", self.frequency_penalty, -2, 2),
            ("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS),
            ("prompt_logprobs", self.prompt_logprobs, 0, MAX_TOP_LOGPROBS),
            *((f"logit_bias of token {id}", bias, -100, 100) for id, bias in self.logit_bias.items()),
        ]
        for name, value, low, high in ranges:
            # Written so that NaN, which compares false with everything, is refused too.
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}, but must be between {low:g} and {high:g}.")
        if len(self.stop) > 16 or not all(0 < len(text) <= 500 for text in self.stop):
            raise ValueError("stop takes at most 16 strings of 1 to 500 characters.")
        if len(self.logit_bias) > _MAX_BIASED:
            raise ValueError(f"logit_bias takes at most {_MAX_BIASED} tokens.")
