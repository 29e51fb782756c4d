"""One example as a model reads it: token ids, and which of them are learnt. Knows nothing of torch or files.

The report's preview and the trainer both come here, so what is coloured is what is trained; the prompt's tokens are
those the engine serves with, from the same template and vocabulary.

An answer is what the template writes after the prompt that asks for it, up to the token that ends it. So each prompt is
rendered as it would be served, and the conversation with the last answer; a template that writes an earlier answer
otherwise once the conversation goes on (Qwen3 leaves out its thinking) is followed in that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any

from inference.text.chat_template import ChatTemplate
from inference.text.template_host import TemplateError
from inference.text.tokenizer import SpecialToken, Tokenizer
from training.datasets.examples import (
    ChatExample,
    DocumentExample,
    Example,
    LabelledExample,
    Message,
    PreferenceExample,
    TranslationExample,
)
from training.datasets.problems import DataError

# What asks for a translation; whoever uses the model afterwards begins with the same words.
TRANSLATE = "Translate the following text.\n\n"

Part = str | SpecialToken


@dataclass(frozen=True)
class Encoded:
    ids: list[int]
    trained: list[bool]  # of each id: whether predicting it counts; never the first, which nothing predicts


class Encoder:
    """Thread-safe. Of a labelled text only the text is encoded: its label is the head's business."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        end_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        """`end_token_ids` are those the model's files name beside the vocabulary's own."""
        self._tokenizer, self._template = tokenizer, template
        self._ends = tokenizer.end_token_ids | end_token_ids

    def encode(self, example: Example) -> Encoded:
        """Raises inference.text.template_host.TemplateError where the template refuses the messages, and DataError
        `unsupported_kind` for preferences."""
        (encoded,) = self.encode_all([example])
        if isinstance(encoded, Exception):
            raise encoded
        return encoded

    def encode_all(self, examples: Sequence[Example]) -> list[Encoded | TemplateError | DataError]:
        """Each as `encode` would, or what it would raise; several times as fast for many short conversations."""
        chats: dict[int, list[Message]] = {}
        encoded: dict[int, Encoded | TemplateError | DataError] = {}
        for index, example in enumerate(examples):
            match example:
                case ChatExample():
                    chats[index] = example.messages
                case TranslationExample() if self._template is not None:
                    asked = Message("user", TRANSLATE + example.source)
                    chats[index] = [asked, Message("assistant", example.target)]
                case TranslationExample():
                    encoded[index] = self._plain(example.source + "\n", example.target)
                case DocumentExample():
                    encoded[index] = self._plain("", example.text)
                case LabelledExample():
                    ids = self._tokenizer.prompt_prefix + self._tokenizer.encode(example.text)
                    encoded[index] = Encoded(ids, [False] * len(ids))
                case PreferenceExample():
                    encoded[index] = DataError("unsupported_kind", "Preferences cannot be trained on yet.")
        encoded |= zip(chats, self._encode_chats([*chats.values()]), strict=True)
        return [encoded[index] for index in range(len(examples))]

    def _plain(self, given: str, text: str) -> Encoded:
        """`text` to be continued with after what is given, and ended as the vocabulary ends a text."""
        ids = self._tokenizer.prompt_prefix + self._tokenizer.encode(given)
        # Where a vocabulary knows several ends, that of a text comes before those of a turn.
        end = [min(self._tokenizer.end_token_ids)] if self._tokenizer.end_token_ids else []
        learnt = (self._tokenizer.encode_text(text, first=not given) if text else []) + end
        trained = [False] * len(ids) + [True] * len(learnt)
        return Encoded(ids + learnt, [False, *trained[1:]] if trained else [])

    def _encode_chats(self, chats: list[list[Message]]) -> Iterator[Encoded | TemplateError]:
        template = self._template
        if template is None:
            error = TemplateError("This model has no chat template, so it cannot learn from conversations.")
            yield from [error] * len(chats)
            return
        learnt = [_learnt(messages) for messages in chats]
        wanted = chain.from_iterable(map(_wanted, chats, learnt))
        # One after the other: a long conversation has as many prompts as answers, each nearly as long as itself.
        rendered = template.render_all(wanted)
        for of_answers in learnt:
            texts = islice(rendered, len(of_answers) + 1)
            try:
                yield self._encode_chat([is_learnt for _, is_learnt in of_answers], map(_certain, texts))
            except TemplateError as error:
                yield error
            deque(texts, maxlen=0)

    def _encode_chat(self, learnt: list[bool], rendered: Iterator[list[Part]]) -> Encoded:
        """`learnt` of each answer; `rendered`: as `_wanted`. Raises TemplateError."""
        whole = next(rendered)
        if not learnt:
            return self._ids(whole, [])
        last = next(rendered)
        answer = _answer(last, whole)
        end = self._end_of(answer)
        whole = _joined(last, answer[: end + 1])
        spans = []
        for (prompt, following), is_learnt in zip(pairwise(chain(rendered, [last])), learnt, strict=False):
            span = _span(prompt, whole, answer[end])
            # Where the template changes what came before, this answer is only context for those after it.
            if is_learnt and span is not None and span.end < len(following):
                spans.append(span)
        spans.append(_Span(*_after(last), len(whole) - 1))
        return self._ids(whole, sorted(spans, key=lambda span: span.end))

    def _end_of(self, answer: list[Part]) -> int:
        """Where in an answer the token is that ends it."""
        specials = [n for n, part in enumerate(answer) if isinstance(part, SpecialToken)]
        known = [n for n in specials if getattr(answer[n], "id", None) in self._ends]
        if not specials:
            raise TemplateError(
                "The model's chat template ends an answer with no special token, so nobody could learn to stop."
            )
        return known[0] if known else specials[-1]

    def _ids(self, parts: list[Part], spans: list[_Span]) -> Encoded:
        ids: list[int] = []
        trained: list[bool] = []

        def add(text: str, learn: bool) -> None:
            added = self._tokenizer.encode_text(text, first=not ids) if text else []
            ids.extend(added)
            trained.extend([learn] * len(added))

        for n, part in enumerate(parts):
            span = next((span for span in spans if span.part <= n <= span.end), None)
            if isinstance(part, SpecialToken):
                ids.append(part.id)
                trained.append(span is not None)
                continue
            # An answer that shares a text with its prompt is encoded apart from it, as when it is generated.
            asked = span.offset if span is not None and span.part == n else 0
            add(part[:asked], False)
            add(part[asked:], span is not None)
        return Encoded(ids, trained)


def _learnt(messages: list[Message]) -> list[tuple[int, bool]]:
    """Where answers are, up to the last that is learnt, and whether they are."""
    answers = [(n, message.weight == 1) for n, message in enumerate(messages) if message.role == "assistant"]
    while answers and not answers[-1][1]:
        answers.pop()
    return answers


def _wanted(
    messages: list[Message], answers: list[tuple[int, bool]]
) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """Everything up to the last answer that is learnt, the prompt of that, and those of the others in their order."""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    ends = [n for n, _ in answers]
    yield (plain[: ends[-1] + 1] if ends else plain, False)
    yield from ((plain[:n], True) for n in [*ends[-1:], *ends[:-1]])


def _certain(text: list[Part] | TemplateError) -> list[Part]:
    """Raises TemplateError."""
    if isinstance(text, TemplateError):
        raise text
    return text


@dataclass(frozen=True)
class _Span:
    """An answer: from a character of one part up to and with another part, the token that ends it."""

    part: int
    offset: int
    end: int


def _after(prompt: list[Part]) -> tuple[int, int]:
    """The part and the character of it that come next."""
    last = prompt[-1] if prompt else None
    return (len(prompt) - 1, len(last)) if isinstance(last, str) else (len(prompt), 0)


def _span(prompt: list[Part], whole: list[Part], end: Part) -> _Span | None:
    """The answer to the prompt in the conversation, where it is there as it was asked for."""
    if _continuation(prompt, whole) is None:
        return None
    part, offset = _after(prompt)
    return _Span(part, offset, whole.index(end, part))


def _answer(prompt: list[Part], whole: list[Part]) -> list[Part]:
    """What the conversation has after the prompt. Raises TemplateError."""
    answer = _continuation(prompt, whole)
    if answer is not None:
        return answer
    # Mistral's newer templates move the system's message once an answer stands after it, but not the last turn.
    specials = [n for n, part in enumerate(prompt) if isinstance(part, SpecialToken)]
    if specials:
        turn = prompt[specials[-1] :]
        for start in range(len(whole) - 1, -1, -1):
            answer = _continuation(turn, whole[start:])
            if answer:
                return answer
    raise TemplateError(
        "The model's chat template writes an answer otherwise than it asks for one, so nothing can be learnt from it."
    )


def _continuation(prompt: list[Part], whole: list[Part]) -> list[Part] | None:
    """`whole` without the prompt it starts with; None where it does not."""
    part, offset = _after(prompt)
    if not offset:
        return whole[part:] if whole[:part] == prompt else None
    shared = whole[part] if part < len(whole) else None
    if whole[:part] != prompt[:part] or not isinstance(shared, str) or not shared.startswith(str(prompt[-1])):
        return None
    return [shared[offset:], *whole[part + 1 :]]


def _joined(prompt: list[Part], answer: list[Part]) -> list[Part]:
    first = answer[0]
    if prompt and isinstance(prompt[-1], str) and isinstance(first, str):
        return [*prompt[:-1], prompt[-1] + first, *answer[1:]]
    return prompt + answer
