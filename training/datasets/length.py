"""Finds examples that are too long for a model, and cuts them where that does least harm. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from training.datasets.examples import ChatExample, DocumentExample, Example, LabelledExample, Message
from training.datasets.texts import as_read, texts_of
from training.encoding import Encoded, Encoder

_LONGEST_TOKEN = 16  # characters, on average of a text
_PROBE = ChatExample([Message("user", "x"), Message("assistant", "x")])


class Length:
    def __init__(self, encoder: Encoder, max_tokens: int) -> None:
        self._encoder, self._max_tokens = encoder, max_tokens
        # What a template writes around messages, the first of which may bring a system's message with it.
        (probe,) = encoder.encode_all([_PROBE])
        self._around = len(probe.ids) if isinstance(probe, Encoded) else 2

    def are_too_long(self, examples: Sequence[Example]) -> list[bool]:
        """Of each. One that the template refuses is not."""
        # A token is at least one byte, so most need not be encoded.
        doubtful = [as_read(e) for e in examples if self._most_tokens(e) > self._max_tokens]
        verdicts = iter([not self._fits(encoded) for encoded in self._encoder.encode_all(doubtful)])
        return [self._most_tokens(e) > self._max_tokens and next(verdicts) for e in examples]

    def cut(self, example: Example) -> Example | None:
        """As much of its beginning as fits: a chat ends after an answer, and only if its first is too long within it.
        None where nothing would be left to learn, or half of it would be wrong, as of a translation."""
        match example:
            case ChatExample():
                return self._cut_chat(example)
            case DocumentExample() | LabelledExample():
                return self._shortened(example.text, lambda text: msgspec.structs.replace(example, text=text))
            case _:
                return None

    def _cut_chat(self, example: ChatExample) -> Example | None:
        messages = example.messages
        ends = [n + 1 for n, m in enumerate(messages) if m.role == "assistant" and m.weight]
        if not ends:
            return None

        def fits(answers: int) -> bool:
            (encoded,) = self._encoder.encode_all([ChatExample(messages[: ends[answers - 1]])])
            return self._fits(encoded)

        # Each is longer than the one before, and what is far too long takes longest: so from the first on.
        fitting, too_many = 0, 1
        while too_many <= len(ends) and fits(too_many):
            fitting, too_many = too_many, 2 * too_many
        too_many = min(too_many, len(ends) + 1)
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            fitting, too_many = (middle, too_many) if fits(middle) else (fitting, middle)
        if fitting:
            return ChatExample(messages[: ends[fitting - 1]])
        *before, answer = messages[: ends[0]]
        return self._shortened(
            answer.content,
            lambda text: ChatExample([*before, msgspec.structs.replace(answer, content=text)]),
        )

    def _shortened(self, text: str, example_with: Callable[[str], Example]) -> Example | None:
        """With the longest beginning of the text that fits, to a word; None where no word does."""
        low, high = 0, min(len(text), self._max_tokens * _LONGEST_TOKEN)
        while low < high:
            middle = (low + high + 1) // 2
            (encoded,) = self._encoder.encode_all([example_with(text[:middle])])
            low, high = (middle, high) if self._fits(encoded) else (low, middle - 1)
        kept = text[:low]
        if low < len(text) and not text[low].isspace() and len(words := kept.rsplit(maxsplit=1)) == 2:
            kept = words[0]  # half a word is none
        return example_with(kept.rstrip()) if kept.strip() else None

    def _fits(self, encoded: object) -> bool:
        return not isinstance(encoded, Encoded) or len(encoded.ids) <= self._max_tokens

    def _most_tokens(self, example: Example) -> int:
        texts = texts_of(example)
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + self._around * len(texts)
