"""Makes a request's prompt ids and fits them into the context. Knows nothing of torch or of other requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference.engine.interface import InvalidRequest, PromptTooLong, Request
from inference.text.chat_template import ChatTemplate
from inference.text.template_host import TemplateError
from inference.text.tokenizer import Tokenizer

# What an answer gets at least, where the oldest turns may be left out: this many tokens, or a quarter of the context.
_ANSWER_ROOM = 1024


@dataclass(frozen=True)
class Prompt:
    ids: list[int]
    dropped_messages: int = 0


class PromptBuilder:
    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, context_length: int) -> None:
        self._tokenizer, self._template, self._context = tokenizer, template, context_length

    def build(self, request: Request) -> Prompt:
        """Raises PromptTooLong, which says by how much, or InvalidRequest."""
        if (request.messages is None) == (request.prompt is None):
            raise InvalidRequest("A request has either messages or a prompt.")
        if request.prompt is not None:
            ids = self._tokenizer.prompt_prefix + self._tokenizer.encode(request.prompt)
            if not ids:
                raise InvalidRequest("The prompt is empty.")
            return self._fitting(Prompt(ids))
        if not request.messages:
            raise InvalidRequest("There is no message to answer.")
        if request.truncate_oldest:
            return self._fitting(self._truncated(request.messages, request.sampling.max_tokens))
        return self._fitting(Prompt(self._render(request.messages)))

    def _fitting(self, prompt: Prompt) -> Prompt:
        most = self._context - 1  # an answer has at least one token
        excess = len(prompt.ids) - most
        if excess > 0:
            raise PromptTooLong(
                f"This is {excess} tokens too long: it has {len(prompt.ids)}, and the model reads at most {most}."
            )
        return prompt

    def _render(self, messages: list[dict[str, Any]]) -> list[int]:
        if self._template is None:
            raise InvalidRequest(
                "This model has no chat template: it can continue a text, but not hold a conversation."
            )
        try:
            return self._template.encode(messages)
        except TemplateError as error:
            raise InvalidRequest(str(error)) from error

    def _truncated(self, messages: list[dict[str, Any]], max_tokens: int | None) -> Prompt:
        """Without the oldest turns, if it must be; what begins the rest is a user's message, or the last one."""
        room = min(max_tokens or _ANSWER_ROOM, _ANSWER_ROOM, self._context // 4)
        limit = self._context - max(room, 1)
        head = next((n for n, m in enumerate(messages) if m.get("role") != "system"), len(messages) - 1)
        last = len(messages) - 1
        # From the newest back, so that what will be dropped anyway is never tokenised.
        sizes: dict[int, int] = {}
        left = limit - sum(self._size(m) for m in messages[:head])
        first = last
        for n in range(last, head - 1, -1):
            sizes[n] = self._size(messages[n])
            left -= sizes[n]
            if left < 0:
                break
            first = n
        while True:
            first = self._next_start(messages, first, head)
            ids = self._render(messages[:head] + messages[first:])
            excess = len(ids) - limit
            if excess <= 0 or first >= last:
                return Prompt(ids, first - head)
            first += 1
            while first < last and (excess := excess - sizes.get(first - 1, 0)) > 0:
                first += 1

    def _next_start(self, messages: list[dict[str, Any]], first: int, head: int) -> int:
        last = len(messages) - 1
        if first <= head:
            return head
        return next((n for n in range(first, last) if messages[n].get("role") == "user"), last)

    def _size(self, message: dict[str, Any]) -> int:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        return sum(len(self._tokenizer.encode(text)) for text in texts if isinstance(text, str))
