"""Turns messages into token ids through a model's chat template. Knows nothing of torch or of where models lie.

The ids are those of `transformers`' apply_chat_template with add_generation_prompt, with one difference: special
tokens come from the template alone. What a person typed is text, even where it spells <|im_start|>.

How: before rendering, the punctuation of every string that could form a special token is replaced, one
character for one, by private-use characters. So the special tokens in the rendered text are the
template's own; it is cut at those, and the texts between them are changed back and encoded as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, repeat
from typing import Any

from inference.text.template_host import TemplateError, TemplateHost
from inference.text.tokenizer import SpecialToken, Tokenizer

_ROLES = frozenset({"system", "user", "assistant", "tool"})
# Planes 15 and 16 are for private use; each base starts a block of characters, one for each we hide.
_BLOCK = 0x80
_AT_ONCE = 32  # conversations in one round trip: they share its time and its room
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
_BASES = (*range(0xF0000, 0xFFF80, _BLOCK), *range(0x100000, 0x10FF80, _BLOCK))


class ChatTemplate:
    """The renderer of one model: template and tokenizer together."""

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        names: Mapping[str, str] | None = None,
        *,
        seconds: float = 2.0,
    ) -> None:
        """`names` are what the template may call bos_token, eos_token and so on. Raises TemplateError."""
        self._host = TemplateHost(source, seconds=seconds)
        self._tokenizer = tokenizer
        self._names = dict(names or {})
        contents = list(tokenizer.specials)
        self._contents = contents
        self._guarded = _guarded_characters(contents)
        self._hidden = re.compile(f"[{re.escape(self._guarded)}]" if self._guarded else r"(?!)")
        # Every proper beginning and end of a special token: text that could become one beside other text.
        self._heads = frozenset(content[:n] for content in contents for n in range(1, len(content)))
        self._tails = frozenset(content[n:] for content in contents for n in range(1, len(content)))
        self._longest = max((len(content) for content in contents), default=0)

    def encode(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        answers: Mapping[str, list[int]] | None = None,
    ) -> list[int]:
        """The prompt's token ids. Raises TemplateError where the template refuses or fails.

        `answers`: texts of messages that the model wrote, with the tokens it wrote them in, which are used as they are
        wherever such a text stands between special tokens as it did when it was written.
        """
        variables, disguise = self._question(messages, add_generation_prompt)
        ids: list[int] = []
        parts = self._parts(self._host.render(variables), disguise)
        last = parts[-1] if parts else ""
        opening = last if add_generation_prompt and isinstance(last, str) else ""  # what an answer follows
        for part in parts:
            if isinstance(part, SpecialToken):
                ids.append(part.id)
                continue
            written = (answers or {}).get(part.removeprefix(opening)) if part.startswith(opening) else None
            ids += self._tokenizer.encode_text(part if written is None else opening, first=not ids)
            ids += written or []
        return ids

    def render_all(
        self, conversations: Iterable[tuple[list[dict[str, Any]], bool]]
    ) -> Iterator[list[str | SpecialToken] | TemplateError]:
        """Messages, and whether the generation prompt is added: the special tokens and the texts between them that
        `encode` makes ids of, or why there are none. As few round trips to the template's process as is safe, and no
        more at once than one of them needs."""
        left = iter(conversations)
        while some := list(islice(left, _AT_ONCE)):
            questions: list[tuple[dict[str, Any], _Disguise] | TemplateError] = []
            for messages, add_generation_prompt in some:
                try:
                    questions.append(self._question(messages, add_generation_prompt))
                except TemplateError as error:
                    questions.append(error)
            asked = [question[0] for question in questions if not isinstance(question, TemplateError)]
            texts: Iterator[str | TemplateError]
            try:
                texts = iter(self._host.render_all(asked) if asked else [])
            except TemplateError as error:
                texts = repeat(error)
            for question in questions:
                text = question if isinstance(question, TemplateError) else next(texts)
                if isinstance(question, TemplateError) or isinstance(text, TemplateError):
                    assert isinstance(text, TemplateError)
                    yield text
                else:
                    yield self._parts(text, question[1])

    def close(self) -> None:
        self._host.close()

    def _question(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool
    ) -> tuple[dict[str, Any], _Disguise]:
        """The template's variables, and what they are disguised by."""
        _check_roles(messages)
        disguise = self._disguise(messages)
        variables = {
            # Roles are from a fixed list; templates compare them and build tokens of them.
            "messages": [_map_strings(m, disguise.hide) | {"role": m["role"]} for m in messages],
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            **self._names,
        }
        return variables, disguise

    def _parts(self, rendered: str, disguise: _Disguise) -> list[str | SpecialToken]:
        parts = self._tokenizer.split_specials(rendered)
        return [part if isinstance(part, SpecialToken) else disguise.show(part) for part in parts]

    def _disguise(self, messages: list[dict[str, Any]]) -> _Disguise:
        used: set[int] = set()

        def note(text: str) -> str:
            if _PRIVATE.search(text):
                used.update(ord(c) // _BLOCK for c in set(text))
            return text

        _map_strings(messages, note)
        for base in _BASES:
            if base // _BLOCK not in used:
                return _Disguise(base, self._guarded, self._is_suspicious)
        raise TemplateError("The conversation is full of private-use characters, which no model can read.")

    def _is_suspicious(self, text: str) -> bool:
        """Whether `text` holds a special token, or could be a part of one together with what stands beside it."""
        if not self._hidden.search(text):
            return False  # There is nothing in it to hide; most texts are of this kind.
        if any(content in text for content in self._contents):
            return True
        text = text.strip()
        ends = range(1, min(self._longest, len(text) + 1))
        return any(text[:n] in self._tails or text[len(text) - n :] in self._heads for n in ends)


class _Disguise:
    """Hides the characters special tokens are made of, in strings that need it, and shows them again."""

    def __init__(self, base: int, guarded: str, is_suspicious: Callable[[str], bool]) -> None:
        self._hide = {ord(c): chr(base + n) for n, c in enumerate(guarded)}
        self._show = {base + n: c for n, c in enumerate(guarded)}
        self._is_suspicious = is_suspicious

    def hide(self, text: str) -> str:
        return text.translate(self._hide) if self._is_suspicious(text) else text

    def show(self, text: str) -> str:
        return text.translate(self._show)


def _guarded_characters(contents: list[str]) -> str:
    """Characters such that every special token has at least one: its punctuation, else its first character."""
    punctuation = {c for content in contents for c in content if not c.isalnum() and not c.isspace()}
    plain = {content[0] for content in contents if punctuation.isdisjoint(content)}
    guarded = "".join(sorted(punctuation | plain))
    if len(guarded) > _BLOCK:
        raise TemplateError("The model's special tokens use too many different characters.")
    return guarded


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of JSON-like data with every string changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(str(key)): _map_strings(item, change) for key, item in value.items()}
    return value


def _check_roles(messages: list[dict[str, Any]]) -> None:
    for message in messages:
        if message.get("role") not in _ROLES:
            raise TemplateError(f"A message's role must be one of {', '.join(sorted(_ROLES))}.")
        if not isinstance(message.get("content"), str | list | None):
            raise TemplateError("A message's content must be text.")
