"""A chat completion as it is answered: whole, or in chunks. Knows nothing of requests."""

from __future__ import annotations

from typing import Any

from inference.models import ServedModel
from webapp.api.answers import Items, heading, usage
from webapp.api.following import Choice
from webapp.api.models import Completion


class ChatAnswer:
    """Implements `webapp.api.streaming.Shapes`."""

    def __init__(self, completion: Completion, model: ServedModel, choices: int) -> None:
        self._completion, self._model, self._choices = completion, model, choices
        self._has_logprobs = completion.request.get("logprobs", False)
        self._with_usage = completion.request.get("include_usage", False)
        self._heading = self._headed("chat.completion.chunk")

    def whole(self, choices: list[Choice]) -> dict[str, Any]:
        """A `chat.completion`."""
        answer = self._headed("chat.completion") | {
            "choices": [
                {
                    "index": choice.index,
                    "message": {
                        "role": "assistant",
                        "content": choice.text,
                        "refusal": None,
                        "annotations": [],
                    },
                    "logprobs": self._logprobs(choice.logprobs),
                    "finish_reason": choice.finish_reason,
                }
                for choice in choices
            ],
            "usage": usage(choices),
        }
        if self._completion.store:
            answer["metadata"] = self._completion.metadata
        return answer

    def begin(self) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(index, delta) for index in range(self._choices)]

    def said(self, choice: Choice) -> tuple[str, Items]:
        return choice.text, choice.logprobs

    def delta(self, choice: Choice, text: str, logprobs: Items, before: int) -> dict[str, Any]:
        return self._chunk(choice.index, {"content": text}, logprobs=self._logprobs(logprobs))

    def end(self, choice: Choice) -> dict[str, Any]:
        return self._chunk(choice.index, {}, finish_reason=choice.finish_reason)

    def usage(self, choices: list[Choice]) -> dict[str, Any] | None:
        return {**self._heading, "choices": [], "usage": usage(choices)} if self._with_usage else None

    def _headed(self, kind: str) -> dict[str, Any]:
        return heading(self._completion, self._model, kind) | {"service_tier": "default"}

    def _logprobs(self, items: Items) -> dict[str, Any] | None:
        return {"content": items, "refusal": None} if self._has_logprobs else None

    def _chunk(self, index: int, delta: dict[str, Any], **of_choice: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **of_choice}
        chunk = {**self._heading, "choices": [choice]}
        # With the usage in the last chunk, the others say that they have none.
        return {**chunk, "usage": None} if self._with_usage else chunk
