"""What an engine takes and gives: the boundary between `inference` and whatever computes tokens. No torch here.

`Engine` is a Protocol: the real one is `inference.engine.engine.TorchEngine`; load tests put a scripted one in its
place. All methods but `prepare`, `read_adapter`, `figures` and, once nothing comes any more, `close` are called from
one thread, the engine thread, and `step` is the only one that computes; `submit` may be slow by what `prepare` has not
prepared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from inference.parameters import SamplingParams


class EngineError(Exception):
    """A request the engine will not run. `code` is stable, the message a sentence a person can act on."""

    code = "engine_error"
    figures: dict[str, int] = {}  # those the message has, by name


class PromptTooLong(EngineError):
    """The prompt does not fit into the model's context beside one token of an answer."""

    code = "prompt_too_long"

    def __init__(self, message: str, *, prompt_tokens: int, context_length: int) -> None:
        super().__init__(message)
        self.figures = {"prompt_tokens": prompt_tokens, "context_length": context_length}


class InvalidRequest(EngineError):
    code = "invalid_request"


class InvalidGrammar(EngineError):
    """The response_format cannot be kept to: an invalid or too large schema or regular expression."""

    code = "invalid_grammar"


class UnknownAdapter(EngineError):
    code = "unknown_adapter"


class InvalidAdapter(EngineError):
    """An adapter's files are missing, truncated, hostile, of another model or of a kind that is not served."""

    code = "invalid_adapter"


class EngineBusy(EngineError):
    """The waiting list is full, or its workspace's share of it; nothing was kept, try again later."""

    code = "engine_busy"


class ModelLoadError(EngineError):
    """A model file is missing, truncated, hostile or of an unknown architecture; the message names it."""

    code = "model_unavailable"


class NotEnoughMemory(ModelLoadError):
    """There is no room for the model beside what is there; with less there, there might be."""


class Pooling(msgspec.Struct, frozen=True, kw_only=True):
    """How one vector is made of the prompt's last hidden states."""

    kind: Literal["mean", "last"] = "mean"  # of all tokens, or that of the last one
    normalize: bool = True  # to length 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate, or with `pooling` one text to make a vector of, without sampling anything.

    One of `messages` (goes through the model's chat template), `prompt` and `prompt_token_ids` (used as they are) is
    given; a prompt is begun as the vocabulary begins one, ids are not. n choices of a prompt are n requests that differ
    in `choice`: submitted together, they compute the prompt once. With `truncate_oldest`, the oldest turns (never the
    system message or the last one) are left out until the prompt fits, and of a text its beginning; of a text longer
    than `prompt_limit` its end is left out. `prior_token_ids` are tokens an earlier attempt already emitted: they are
    fed through the model, penalties, stop strings and detokeniser before anything new is sampled, and are not emitted
    again. Randomness is a function of (seed, choice, position of the token in the answer) alone.
    """

    id: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    prompt_token_ids: list[int] | None = None
    pooling: Pooling | None = None
    sampling: SamplingParams = SamplingParams()
    seed: int = 0
    choice: int = 0
    prior_token_ids: list[int] = []
    truncate_oldest: bool = False
    prompt_limit: int | None = None  # tokens
    cache_salt: str = (
        ""  # the workspace's: those of one share what is cached, and take turns with others as one
    )
    adapter: str = ""  # the name one was loaded under; "" is the base model


class Admission(msgspec.Struct, frozen=True):
    """The answer to `submit`: what was admitted."""

    prompt_tokens: int
    max_tokens: int
    dropped_messages: int = 0  # left out by `truncate_oldest`


class AlternativeToken(msgspec.Struct, frozen=True):
    token_id: int
    token: bytes  # what it adds to the text: UTF-8, perhaps half a character; nothing for a special token
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True):
    """How likely the model found a token; see SamplingParams. `top` has the likeliest tokens, the likeliest first."""

    token_id: int
    token: bytes
    logprob: float | None  # None for the first token of a prompt, which nothing comes before
    top: list[AlternativeToken] = []


class StepOutput(msgspec.Struct):
    """What one step added to one request. `text` is what became certain: it may be empty, or hold earlier text.

    After `finish_reason` is set the request is gone. "stop": an end token, a stop string or the end of a grammar;
    "length": max_tokens or the context is used up, or nothing was to be generated; "cancelled": `cancel` was called;
    "error": this request's step failed and `error` says why. `token_ids` excludes the end token.

    Where they were asked for: `logprobs` has an item for each of `token_ids`; `prompt_logprobs` has one for each token
    of the prompt and comes once, with an attempt's first new token or with the end; `embedding` comes with the end.
    `cached_tokens` says with every token how many of the prompt's first ones were found computed already.
    """

    request_id: str
    token_ids: list[int]
    text: str = ""
    finish_reason: str | None = None
    error: str = ""
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None
    embedding: list[float] | None = None
    cached_tokens: int = 0


class Adapter(Protocol):
    """What an engine made of an adapter's files: its own business, but for the name of their content."""

    @property
    def digest(self) -> str:
        """SHA-256 of its configuration and tensors."""


class EngineFigures(msgspec.Struct, frozen=True):
    """How full an engine is, and what it has found computed already since it began."""

    kv_blocks: int = 0  # of the cache for keys and values, as many as there are
    kv_blocks_used: int = 0  # held by sequences
    kv_blocks_kept: int = 0  # held by none, with content that may be found again; the others are empty
    prefix_tokens: int = 0  # known when sequences were admitted
    prefix_tokens_reused: int = 0  # of these, found in the cache
    adapters: int = 0  # beside the weights


class Engine(Protocol):
    """Runs many requests at once. Not thread-safe: one thread calls it."""

    model_digest: str

    def prepare(self, request: Request) -> Any:
        """Does ahead what may take long: makes tokens of the prompt, compiles the grammar. Any thread may call it.

        Answers what `submit` takes. Raises PromptTooLong, InvalidRequest or InvalidGrammar.
        """

    def read_adapter(self, folder: Path) -> Adapter:
        """Reads and checks a PEFT LoRA folder, which is slow. Any thread may call it. Raises InvalidAdapter."""

    def add_adapter(self, name: str, adapter: Any) -> None:
        """From now on, requests for `name` use what `read_adapter` answered; as good as free if they do already.

        Those that are here finish with the one they began with. Of the names, the longest unused are forgotten.
        """

    def submit(self, request: Request, prepared: Any = None) -> Admission:
        """Queues a request. Without what `prepare` answered of it, it takes the time itself. Raises PromptTooLong,
        InvalidRequest, InvalidGrammar, UnknownAdapter or EngineBusy, keeping nothing."""

    def cancel(self, request_id: str) -> None:
        """Ends a request with "cancelled" at the next step; an unknown or finished id is no error."""

    def step(self) -> list[StepOutput]:
        """One forward pass over what is running (and what can be admitted). Empty when idle.

        A pass that fails ends the requests in it with "error". Raises where that happens again and again: the engine
        is beyond repair, as with a device that is lost, and what it ran did not end.
        """

    @property
    def has_work(self) -> bool:
        """Whether a call to `step` would do anything."""

    def figures(self) -> EngineFigures:
        """As they are now, each by itself: a step may come between two of them. Any thread may call it."""

    def close(self) -> None:
        """Ends what it started. Nothing runs in it, and nothing comes; its memory goes with the last name of it."""
