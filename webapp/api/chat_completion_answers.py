"""A chat completion as it is answered: whole, or in chunks. Knows nothing of requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.models import ServedModel
from webapp.api.answers import heading, usage
from webapp.api.following import Choice
from webapp.api.models import Completion


def whole(completion: Completion, model: ServedModel, choices: Sequence[Choice]) -> dict[str, Any]:
    """A `chat.completion`."""
    has_logprobs = completion.request.get("logprobs", False)
    answer = heading(completion, model, "chat.completion") | {
        "choices": [
            {
                "index": choice.index,
                "message": {
                    "role": "assistant",
                    "content": choice.text,
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": {"content": choice.logprobs, "refusal": None} if has_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ],
        "usage": usage(choices),
        "service_tier": "default",
    }
    if completion.store:
        answer["metadata"] = completion.metadata
    return answer


@dataclass
class Chunks:
    """`chat.completion.chunk`s. Implements `webapp.api.streaming.Shapes`."""

    completion: Completion
    model: ServedModel
    choices: int
    with_usage: bool = False

    def __post_init__(self) -> None:
        self._heading = heading(self.completion, self.model, "chat.completion.chunk")
        self._heading["service_tier"] = "default"
        self._has_logprobs = self.completion.request.get("logprobs", False)

    def begin(self) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(index, delta) for index in range(self.choices)]

    def delta(self, choice: Choice, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        scores = {"content": logprobs, "refusal": None} if self._has_logprobs else None
        return self._chunk(choice.index, {"content": text}, logprobs=scores)

    def end(self, choice: Choice) -> dict[str, Any]:
        return self._chunk(choice.index, {}, finish_reason=choice.finish_reason)

    def usage(self, choices: list[Choice]) -> dict[str, Any] | None:
        return {**self._heading, "choices": [], "usage": usage(choices)} if self.with_usage else None

    def _chunk(self, index: int, delta: dict[str, Any], **of_choice: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **of_choice}
        chunk = {**self._heading, "choices": [choice]}
        # With the usage in the last chunk, the others say that they have none.
        return {**chunk, "usage": None} if self.with_usage else chunk
