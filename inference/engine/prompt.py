"""Makes a request's prompt ids and fits them into the context. Knows nothing of torch or of other requests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from inference.engine.answers import Answers
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
    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        context_length: int,
        answers: Answers,
        vocab_size: int,
    ) -> None:
        self._tokenizer, self._template, self._context = tokenizer, template, context_length
        self._vocab_size = vocab_size
        self._answers = answers

    def build(self, request: Request) -> Prompt:
        """Raises PromptTooLong, which says by how much, or InvalidRequest."""
        if [request.messages, request.prompt, request.prompt_token_ids].count(None) != 2:
            raise InvalidRequest("A request has either messages or a prompt, as text or as tokens.")
        if request.prompt_token_ids is not None:
            if not all(0 <= token < self._vocab_size for token in request.prompt_token_ids):
                raise InvalidRequest("The tokens of the prompt are not of this model.")
            if not request.prompt_token_ids:
                raise InvalidRequest("The prompt is empty.")
            return self._fitting(Prompt(request.prompt_token_ids))
        if request.prompt is not None:
            ids = self._tokenizer.prompt_prefix + self._tokenizer.encode(request.prompt)
            if not ids:
                raise InvalidRequest("The prompt is empty.")
            if request.truncate_oldest:
                ids = self._last(ids, request)
            return self._fitting(Prompt(ids[: request.prompt_limit]))
        if not request.messages:
            raise InvalidRequest("There is no message to answer.")
        if not all(isinstance(message, dict) for message in request.messages):
            raise InvalidRequest("A message is an object with a role and a content.")
        if request.truncate_oldest:
            return self._fitting(self._truncated(request))
        return self._fitting(Prompt(self._render(request.messages, request.cache_salt)))

    def _last(self, ids: list[int], request: Request) -> list[int]:
        """As much of a text's end as leaves room for an answer, begun as a text is."""
        begun = len(self._tokenizer.prompt_prefix)
        excess = len(ids) - self._limit(request)
        return ids[:begun] + ids[begun + excess :] if excess > 0 else ids

    def _limit(self, request: Request) -> int:
        """What a prompt of which a part may be left out has at most."""
        room = min(request.sampling.max_tokens or _ANSWER_ROOM, _ANSWER_ROOM, self._context // 4)
        return self._context - max(room, 1)

    def _fitting(self, prompt: Prompt) -> Prompt:
        most = self._context - 1  # an answer has at least one token
        excess = len(prompt.ids) - most
        if excess > 0:
            raise PromptTooLong(
                f"This is {excess} tokens too long: it has {len(prompt.ids)}, and the model reads at most {most}.",
                prompt_tokens=len(prompt.ids),
                context_length=self._context,
            )
        return prompt

    def _render(self, messages: list[dict[str, Any]], salt: str) -> list[int]:
        if self._template is None:
            raise InvalidRequest(
                "This model has no chat template: it can continue a text, but not hold a conversation."
            )
        try:
            return self._template.encode(messages, answers=self._answers.among(salt, messages))
        except TemplateError as error:
            raise InvalidRequest(str(error)) from error

    def _truncated(self, request: Request) -> Prompt:
        """The oldest turns left out, as few as it takes or some more (see `_in_strides`); what is left begins with the
        person."""
        messages = request.messages or []
        limit = self._limit(request)
        last = len(messages) - 1
        head = next((n for n, m in enumerate(messages) if m.get("role") != "system"), last)
        sizes = self._newest_sizes(messages, head, limit)
        oldest = last + 1 - len(sizes)
        starts = [n for n in range(oldest, last) if n == head or messages[n].get("role") == "user"] + [last]
        rendered: dict[int, list[int]] = {}

        def ids_from(choice: int) -> list[int]:
            if choice not in rendered:
                rendered[choice] = self._render(
                    messages[:head] + messages[starts[choice] :], request.cache_salt
                )
            return rendered[choice]

        choice = self._guess(starts, sizes, len(ids_from(0)), limit)
        while choice < len(starts) - 1 and len(ids_from(choice)) > limit:
            choice += 1
        while choice > 0 and len(ids_from(choice - 1)) <= limit:
            choice -= 1
        choice = self._in_strides(messages[head:], [start - head for start in starts], choice, sizes, limit)
        return Prompt(ids_from(choice), starts[choice] - head)

    @staticmethod
    def _in_strides(
        turns: list[dict[str, Any]], starts: list[int], choice: int, sizes: list[int], limit: int
    ) -> int:
        """A start from `choice` on that will still do when some more turns have come; `sizes` as `_newest_sizes` has.

        A prompt that begins otherwise than the one before is computed anew from there. So the beginning moves by
        strides of about a quarter of what fits, and most turns find all that came before in the cache. They are counted
        in bytes from the very first turn: so the same ones give way, whoever asks and however often.
        """
        lengths = [sum(len(text.encode()) for text in _texts(turn)) for turn in turns]
        before = [*accumulate(lengths, initial=0)]
        # To a power of two, so that hardly any turn changes it.
        bytes_a_token = 2 ** int(math.log2(max(sum(lengths[-len(sizes) :]) / max(sum(sizes), 1), 1)))
        stride = limit * bytes_a_token // 4
        wanted = -(-before[starts[choice]] // stride) * stride
        further = next((n for n, start in enumerate(starts) if before[start] >= wanted), choice)
        # Fewer give way where little would be left, as of the last message alone.
        is_enough = before[-1] - before[starts[further]] >= stride
        return max(further, choice) if is_enough else choice

    def _newest_sizes(self, messages: list[dict[str, Any]], head: int, limit: int) -> list[int]:
        """Tokens of the contents of the newest messages, oldest of them first: as many as may fit.

        Counted from the newest back, so that what will be left out anyway is never tokenised.
        """
        left = limit - sum(self._size(m) for m in messages[:head])
        sizes: list[int] = []
        for message in reversed(messages[head:]):
            size = self._size(message)
            left -= size
            if sizes and left < 0:
                break
            sizes.append(size)
        return sizes[::-1]

    def _guess(self, starts: list[int], sizes: list[int], whole: int, limit: int) -> int:
        """The first start from which the prompt should fit, if the template adds as much to every message."""
        first = starts[0]
        sizes = sizes[len(sizes) - (starts[-1] + 1 - first) :]
        added = max(whole - sum(sizes), 0) / (len(sizes) + 1)
        for choice, start in enumerate(starts):
            if whole - sum(sizes[: start - first]) - added * (start - first) <= limit:
                return choice
        return len(starts) - 1

    def _size(self, message: dict[str, Any]) -> int:
        return sum(len(self._tokenizer.encode(text)) for text in _texts(message))


def _texts(message: dict[str, Any]) -> list[str]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return [text for text in texts if isinstance(text, str)]
