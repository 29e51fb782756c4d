"""What an engine takes and gives: the boundary between `inference` and whatever computes tokens. No torch here.

`Engine` is a Protocol: the real one is `inference.engine.engine.TorchEngine`; load tests put a scripted one in
its place. All three methods are called from one thread, the engine thread, and `step` is the only one that
computes; `submit` may be slow by as much as tokenising its prompt.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from inference.parameters import SamplingParams


class EngineError(Exception):
    """A request the engine will not run. `code` is stable, the message a sentence a person can act on."""

    code = "engine_error"


class PromptTooLong(EngineError):
    code = "prompt_too_long"


class InvalidRequest(EngineError):
    code = "invalid_request"


class EngineBusy(EngineError):
    """The waiting list is full; nothing was kept, try again later."""

    code = "engine_busy"


class ModelLoadError(EngineError):
    """A model file is missing, truncated, hostile or of an unknown architecture; the message names it."""

    code = "model_unavailable"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate.

    Either `messages` (goes through the model's chat template) or `prompt` (used as it is) is given. With
    `truncate_oldest`, the oldest turns (never the system message or the last one) are left out until the prompt
    fits. `prior_token_ids` are tokens an earlier attempt already emitted: they are fed through the model,
    penalties, stop strings and detokeniser before anything new is sampled, and are not emitted again.
    Randomness is a function of (seed, choice, position of the token in the answer) alone.
    """

    id: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    sampling: SamplingParams = SamplingParams()
    seed: int = 0
    choice: int = 0
    prior_token_ids: list[int] = []
    truncate_oldest: bool = False
    cache_salt: str = ""


class Admission(msgspec.Struct, frozen=True):
    """The answer to `submit`: what was admitted."""

    prompt_tokens: int
    max_tokens: int
    dropped_messages: int = 0  # left out by `truncate_oldest`


class StepOutput(msgspec.Struct):
    """What one step added to one request. `text` is what became certain: it may be empty, or hold earlier text.

    After `finish_reason` is set the request is gone. "stop": an end token or a stop string; "length":
    max_tokens or the context is used up; "cancelled": `cancel` was called; "error": this request's
    step failed and `error` says why. `token_ids` excludes the end token.
    """

    request_id: str
    token_ids: list[int]
    text: str = ""
    finish_reason: str | None = None
    error: str = ""


class Engine(Protocol):
    """Runs many requests at once. Not thread-safe: one thread calls it."""

    model_digest: str

    def submit(self, request: Request) -> Admission:
        """Queues a request. Raises PromptTooLong, InvalidRequest or EngineBusy; then nothing was kept."""

    def cancel(self, request_id: str) -> None:
        """Ends a request with "cancelled" at the next step; an unknown or finished id is no error."""

    def step(self) -> list[StepOutput]:
        """One forward pass over what is running (and what can be admitted). Empty when idle."""

    @property
    def has_work(self) -> bool:
        """Whether a call to `step` would do anything."""
