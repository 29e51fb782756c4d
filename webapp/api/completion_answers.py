"""A (legacy) completion as it is answered: whole, or in chunks of the same shape. Knows nothing of requests."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from inference.models import ServedModel
from inference.services import Prompt
from webapp.api.answers import Items, heading, usage
from webapp.api.following import Choice
from webapp.api.models import Completion


class TextAnswer:
    """Whole, or in pieces: implements `webapp.api.streaming.Shapes`."""

    def __init__(
        self, completion: Completion, model: ServedModel, prompts: Sequence[Prompt], choices: int
    ) -> None:
        asked = completion.request
        self._heading = heading(completion, model, "text_completion")
        self._prompts, self._each = prompts, choices // len(prompts)
        self._echo, self._with_usage = asked.get("echo", False), asked.get("include_usage", False)
        self._has_logprobs = "logprobs" in asked
        self._offsets = [_Offsets() for _ in range(choices)]

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        return {
            **self._heading,
            "choices": [
                self._choice(choice.index, *self.said(choice), 0, choice.finish_reason) for choice in choices
            ],
            "usage": usage(choices, len(self._prompts)),
        }

    def begin(self) -> list[dict[str, Any]]:
        return []

    def said(self, choice: Choice) -> tuple[str, Items]:
        """With `echo`, behind the prompt: once that is known, where it was given in tokens."""
        if not self._echo or not (choice.admitted or choice.ended):
            return choice.text, choice.logprobs
        prompt = self._prompts[choice.index // self._each].prompt
        if not isinstance(prompt, str):
            prompt = _text_of(choice.prompt_logprobs)
        return prompt + choice.text, choice.prompt_logprobs + choice.logprobs

    def delta(self, choice: Choice, text: str, logprobs: Items, before: int) -> dict[str, Any]:
        return self._chunk([self._choice(choice.index, text, logprobs, before, None)])

    def end(self, choice: Choice) -> dict[str, Any]:
        return self._chunk([self._choice(choice.index, "", [], 0, choice.finish_reason)])

    def usage(self, choices: list[Choice]) -> dict[str, Any] | None:
        if not self._with_usage:
            return None
        return {**self._heading, "choices": [], "usage": usage(choices, len(self._prompts))}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._heading, "choices": choices}
        return {**chunk, "usage": None} if self._with_usage else chunk

    def _choice(
        self, index: int, text: str, items: Items, before: int, finish_reason: str | None
    ) -> dict[str, Any]:
        logprobs = self._logprobs(index, items, before) if self._has_logprobs else None
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, index: int, items: Items, before: int) -> dict[str, Any]:
        offsets = self._offsets[index]
        offsets.add(items, before)
        return {
            "tokens": [_token(item) for item in items],
            "token_logprobs": [item["logprob"] for item in items],
            "top_logprobs": [_top(item) for item in items],
            "text_offset": offsets.starts[before : before + len(items)],
        }


class _Offsets:
    """Where in the text each token begins, in characters."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, items: Items, before: int) -> None:
        """`items` are the tokens behind the first `before`."""
        # Who comes back in the middle was told where the tokens before began; from there it is counted anew.
        self.starts += [self._at] * (before - len(self.starts))
        for item in items:
            self.starts.append(self._at)
            self._at += len(self._decoder.decode(bytes(item["bytes"])))


def _text_of(items: Items) -> str:
    return b"".join(bytes(item["bytes"]) for item in items).decode(errors="replace")


def _token(item: dict[str, Any]) -> str:
    """As OpenAI spells those that are no text by themselves, so that no two are spelt alike."""
    raw = bytes(item["bytes"])
    try:
        return raw.decode() if raw else str(item["token"])
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _top(item: dict[str, Any]) -> dict[str, float] | None:
    """The likeliest tokens, and the one that was taken; None for the first of a prompt."""
    if item["logprob"] is None:
        return None
    return {_token(other): other["logprob"] for other in item["top_logprobs"]} | {
        _token(item): item["logprob"]
    }
