"""The texts of an example, whatever its kind: to look through, to change, to compare. Knows nothing of files."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import msgspec

from training.datasets.examples import (
    ChatExample,
    DocumentExample,
    Example,
    Kind,
    LabelledExample,
    Message,
    PreferenceExample,
    TranslationExample,
)


def texts_of(example: Example) -> list[str]:
    match example:
        case ChatExample():
            return [message.content for message in example.messages]
        case PreferenceExample():
            return [*(message.content for message in example.messages), example.preferred, example.rejected]
        case LabelledExample():
            return [example.text]
        case TranslationExample():
            return [example.source, example.target]
        case DocumentExample():
            return [example.title, example.text] if example.title else [example.text]


def map_texts(example: Example, change: Callable[[str], str]) -> Example:
    """The example with each text changed; the same object where none is."""
    match example:
        case ChatExample():
            messages = _map_messages(example.messages, change)
            return example if messages is example.messages else ChatExample(messages)
        case PreferenceExample():
            messages = _map_messages(example.messages, change)
            preferred, rejected = change(example.preferred), change(example.rejected)
            if messages is example.messages and (preferred, rejected) == (
                example.preferred,
                example.rejected,
            ):
                return example
            return PreferenceExample(messages, preferred, rejected)
        case LabelledExample():
            text = change(example.text)
            return example if text == example.text else LabelledExample(text, example.labels, example.value)
        case TranslationExample():
            source, target = change(example.source), change(example.target)
            same = (source, target) == (example.source, example.target)
            return example if same else TranslationExample(source, target)
        case DocumentExample():
            title, text = change(example.title), change(example.text)
            same = (title, text) == (example.title, example.text)
            return example if same else DocumentExample(text, title)


def _map_messages(messages: list[Message], change: Callable[[str], str]) -> list[Message]:
    contents = [change(message.content) for message in messages]
    if all(
        content is message.content or content == message.content
        for content, message in zip(contents, messages, strict=True)
    ):
        return messages
    return [Message(m.role, content, m.weight) for m, content in zip(messages, contents, strict=True)]


def has_something_to_learn(example: Example) -> bool:
    match example:
        case ChatExample():
            return any(m.role == "assistant" and m.weight and m.content.strip() for m in example.messages)
        case PreferenceExample():
            return bool(example.preferred.strip()) and bool(example.rejected.strip())
        case LabelledExample() | DocumentExample():
            return bool(example.text.strip())
        case TranslationExample():
            return bool(example.source.strip()) and bool(example.target.strip())


def identity_of(example: Example) -> str:
    """Equal for examples that teach the same: all of it, in one Unicode form and with white space made even."""
    match example:
        case ChatExample():
            parts = [f"{m.role} {m.weight} {_even(m.content)}" for m in example.messages]
        case PreferenceExample():
            parts = [f"{m.role} {_even(m.content)}" for m in example.messages]
            parts += [_even(example.preferred), _even(example.rejected)]
        case LabelledExample():
            parts = [_even(example.text), *sorted(example.labels), repr(example.value)]
        case _:
            parts = [_even(text) for text in texts_of(example)]
    return "\0".join(parts)


def own_texts(example: Example) -> list[str]:
    """Without system messages, which whole datasets share."""
    match example:
        case ChatExample():
            return [m.content for m in example.messages if m.role != "system"]
        case PreferenceExample():
            asked = [m.content for m in example.messages if m.role != "system"]
            return [*asked, example.preferred, example.rejected]
        case _:
            return texts_of(example)


def comparable_text(example: Example) -> str:
    """What nearness is measured on."""
    return _even("\n".join(own_texts(example))).casefold()


def _even(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def as_read(example: Example) -> Example:
    """What stands for it where its tokens are counted: of a pair, the prompt with its better answer."""
    if not isinstance(example, PreferenceExample):
        return example
    context = [msgspec.structs.replace(m, weight=0) if m.role == "assistant" else m for m in example.messages]
    return ChatExample([*context, Message("assistant", example.preferred)])


def excerpt_of(example: Example, length: int) -> str:
    """How it begins, on one line."""
    text = " / ".join(text for text in texts_of(example) if text)
    return " ".join(text[: 2 * length].split())[:length]


def names_of_texts(example: Example) -> list[str]:
    """What the texts are called, in the order of `texts_of`."""
    match example:
        case ChatExample():
            return [f"messages[{number}].content" for number in range(len(example.messages))]
        case PreferenceExample():
            messages = [f"messages[{number}].content" for number in range(len(example.messages))]
            return [*messages, "preferred", "rejected"]
        case LabelledExample():
            return ["text"]
        case TranslationExample():
            return ["source", "target"]
        case DocumentExample():
            return ["title", "text"] if example.title else ["text"]


def kind_of_example(example: Example) -> Kind:
    return type(example).__struct_config__.tag  # type: ignore[return-value]
