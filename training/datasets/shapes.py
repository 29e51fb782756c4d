"""What the parts of an example are usually called, and so which shape a row has. Knows nothing of layouts or files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from training.datasets.sources import Shape


class Field(NamedTuple):
    names: tuple[str, ...]  # what others call it, the surest first
    required: bool = True


_SYSTEM = Field(("system", "system_prompt"), required=False)
# Whether an answer is a good one (TRL's unpaired preferences, for KTO): only where it holds true and false.
_GOOD = Field((), required=False)
_GOOD_NAMES = ("label", "kto_tag")

FIELDS: dict[Shape, dict[str, Field]] = {
    "chat": {
        "messages": Field(("messages", "conversation", "dialog", "dialogue", "chat")),
        "system": _SYSTEM,
        "label": _GOOD,
    },
    "sharegpt": {
        "conversations": Field(("conversations", "conversation")),
        "system": _SYSTEM,
        "label": _GOOD,
    },
    "preference": {
        "instruction": Field(("instruction",), required=False),
        "input": Field(("input", "prompt", "question", "conversations", "messages"), required=False),
        "preferred_output": Field(("preferred_output", "chosen", "preferred", "accepted")),
        "non_preferred_output": Field(("non_preferred_output", "rejected", "non_preferred")),
        "system": _SYSTEM,
    },
    "alpaca": {
        "instruction": Field(("instruction",)),
        "input": Field(("input", "context"), required=False),
        "output": Field(("output", "response")),
        "system": _SYSTEM,
        "label": _GOOD,
    },
    "prompt_completion": {
        "prompt": Field(("prompt", "question", "query", "user", "input", "frage")),
        "context": Field(("context",), required=False),
        "completion": Field(("completion", "response", "answer", "assistant", "output", "reply", "antwort")),
        "system": _SYSTEM,
        "label": _GOOD,
    },
    "translation": {
        "source": Field(("source", "src", "source_text", "original", "quelle")),
        "target": Field(("target", "tgt", "target_text", "translated", "translation", "ziel")),
    },
    "labelled": {
        "text": Field(("text", "sentence", "content", "review", "comment", "message", "body", "document")),
        "label": Field(("label", "category", "class", "sentiment", "intent", "topic", "kategorie"), False),
        "labels": Field(("labels", "categories", "tags"), False),
        "value": Field(("value", "score", "rating", "stars", "target"), False),
    },
    "document": {
        "text": Field(("text", "content", "body", "document", "article", "page")),
        "title": Field(("title", "heading", "titel"), required=False),
    },
}
# "de", "en-GB": ISO 639-1, without those that columns are called for other reasons (id, no, is, to).
_LANGUAGE = re.compile(
    "(?:af|am|ar|az|be|bg|bn|bs|ca|cs|cy|da|de|el|en|eo|es|et|eu|fa|fi|fr|ga|gl|gu|he|hi|hr|hu|hy|it|ja|ka|kk|km|kn|"
    "ko|ku|la|lb|lo|lt|lv|mg|mi|mk|ml|mn|mr|ms|mt|my|nb|ne|nl|nn|pa|pl|ps|pt|ro|ru|rw|si|sk|sl|so|sq|sr|sv|sw|ta|"
    "te|tg|th|tl|tr|uk|ur|uz|vi|xh|yi|yo|zh|zu)(?:[-_][a-z]{2,4})?"
)
# A person keeps together more than one of their conversations does.
GROUP_NAMES = ("group", "group_id", "user", "user_id", "customer_id", "conversation_id", "session_id")
LABEL_FIELDS = ("label", "labels", "value")
# Beside a text these say where it is from, and are hardly ever what is to be learnt.
_ABOUT_A_TEXT = frozenset(
    (
        "id",
        "title",
        "source",
        "url",
        "link",
        "date",
        "author",
        "language",
        "lang",
        "split",
        "license",
        "file",
        "filename",
    )
)


def usual_columns(shape: Shape, names: Sequence[str]) -> dict[str, str] | None:
    """Which of these names each field of the shape has; None where a required one is missing."""
    folded = {_fold(name): name for name in reversed(names)}
    columns: dict[str, str] = {}
    for field, (usual, required) in FIELDS[shape].items():
        found = next((folded[name] for name in usual if name in folded), None)
        if found is not None and found not in columns.values():
            columns[field] = found
        elif required:
            return None
    if shape == "labelled" and not any(field in columns for field in LABEL_FIELDS):
        return None
    for name in GROUP_NAMES:
        if name in folded and folded[name] not in columns.values():
            columns["group"] = folded[name]
            break
    return columns


def guess_shape(rows: Sequence[Mapping[str, object]]) -> tuple[Shape, dict[str, str], bool] | None:
    """The shape and columns of rows with named fields, and whether their names say so; None where none fits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return None
    if pairs := usual_columns("preference", names):  # with conversations before them or not
        return "preference", pairs, True
    if shape := _conversations(rows, names):
        return (*shape, True)
    if pair := _two_languages_in_one(rows):
        return "translation", pair, True
    for candidate in ("alpaca", "prompt_completion", "translation", "labelled", "document"):
        columns = usual_columns(candidate, names)
        if columns is not None:
            if candidate == "labelled":
                return candidate, columns, _numbers(rows, columns)
            if candidate == "document":
                return _document_or_labelled(rows, names, columns)
            return candidate, columns | _good(candidate, rows, names), True
    if pair := _columns_called_by_languages(names):
        return "translation", pair, True
    by_content = _by_content(rows, names)
    return None if by_content is None else (*by_content, False)


def _fold(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().casefold())


def _conversations(
    rows: Sequence[Mapping[str, object]], names: list[str]
) -> tuple[Shape, dict[str, str]] | None:
    for shape, field in (("chat", "messages"), ("sharegpt", "conversations")):
        columns = usual_columns(shape, names)  # type: ignore[arg-type]
        if columns is None:
            continue
        values = [row[columns[field]] for row in rows if columns[field] in row]
        lists = [value[:4] for value in values if isinstance(value, list)]
        keys = {key for messages in lists for m in messages if isinstance(m, dict) for key in m}
        texts = any(isinstance(value, str) and value.lstrip().startswith("[") for value in values)
        if (
            shape == "chat"
            and "from" not in keys
            and ("role" in keys or texts or columns[field] == "messages")
        ):
            return "chat", columns | _good("chat", rows, names)
        if shape == "sharegpt" and "from" in keys:
            return "sharegpt", columns | _good("sharegpt", rows, names)
        if shape == "sharegpt" and "role" in keys:  # OpenAI's messages under another name
            columns["messages"] = columns.pop("conversations")
            return "chat", columns | _good("chat", rows, names)
    return None


def _good(shape: Shape, rows: Sequence[Mapping[str, object]], names: list[str]) -> dict[str, str]:
    if "label" not in FIELDS[shape] or FIELDS[shape]["label"] is not _GOOD:
        return {}
    for name in names:
        said = [row[name] for row in rows if row.get(name) not in (None, "")]
        if _fold(name) in _GOOD_NAMES and said and all(is_good(value) is not None for value in said):
            return {"label": name}
    return {}


def is_good(value: object) -> bool | None:
    """What a field says that holds true and false, in a table as words; None where it says something else."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().casefold())
    return value if isinstance(value, bool) else None


def _two_languages_in_one(rows: Sequence[Mapping[str, object]]) -> dict[str, str] | None:
    """{"translation": {"de": ..., "en": ...}}, as parallel corpora of the Hugging Face hub are."""
    first = rows[0].get("translation")
    if isinstance(first, dict) and len(first) == 2 and all(isinstance(text, str) for text in first.values()):
        source, target = first
        return {"source": f"translation.{source}", "target": f"translation.{target}"}
    return None


def _columns_called_by_languages(names: Sequence[str]) -> dict[str, str] | None:
    """Two of them, where no usual name says what the columns are: "it" and "my" may be something else."""
    called = [name for name in names if _LANGUAGE.fullmatch(name.strip().casefold())]
    return dict(zip(("source", "target"), called, strict=True)) if len(called) == 2 else None


def _numbers(rows: Sequence[Mapping[str, object]], columns: dict[str, str]) -> bool:
    """A "label" of broken numbers is a value to predict; a "target" or "rating" of words is a label. Of both, what most
    are: the others will be told as bad values. Returns whether there is no doubt."""
    if "label" in columns and any(name in columns for name in ("labels", "value")):
        columns.pop("value", None)
    for field, other in (("label", "value"), ("value", "label")):
        if field not in columns:
            continue
        values = [
            str(row.get(columns[field])).strip() for row in rows if row.get(columns[field]) not in (None, "")
        ]
        numbers = [v for v in values if re.fullmatch(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?", v)]
        broken = any(re.search(r"[.,]\d*[1-9]", v) for v in numbers)
        most = len(numbers) * 2 > len(values)
        if (field == "label" and most and broken) or (field == "value" and values and not most):
            columns[other] = columns.pop(field)
        if "value" in columns:
            return len(numbers) == len(values)
    return True


def _document_or_labelled(
    rows: Sequence[Mapping[str, object]], names: list[str], columns: dict[str, str]
) -> tuple[Shape, dict[str, str], bool]:
    """Texts beside which a column has few different values may well be labelled, where these are words. Of one value
    nobody can tell yet, and numbers, dates, true and false say many other things about a document."""
    few: dict[str, list[str]] = {}
    for name in names:
        if name not in columns.values() and _fold(name) not in _ABOUT_A_TEXT:
            found = [str(v).strip() for row in rows if isinstance(v := row.get(name), str | int)]
            values = [value for value in found if value]
            if values and _are_few(values, len(rows)):
                few[name] = values
    label = _likeliest_label(few)
    if label and _are_words(few[label]):
        return "labelled", {f: n for f, n in columns.items() if f != "title"} | {"label": label}, False
    return "document", columns, not label


def _likeliest_label(few: Mapping[str, list[str]]) -> str:
    """Of columns of few values one of words, with the fewest, if it has several at all; "" where there is no column."""

    def unlikely(name: str) -> tuple[bool, int]:
        return not _are_words(few[name]), len(set(few[name])) if len(set(few[name])) > 1 else len(few[name])

    return min(few, key=unlikely, default="")


def _are_words(values: list[str]) -> bool:
    """Several, and not numbers, dates, or true and false."""
    different = {value.casefold() for value in values}
    return len(different) > 1 and not all(
        re.fullmatch(r"[\d\s.,:/+-]+|true|false", value) for value in different
    )


def _are_few(values: list[str], rows: int) -> bool:
    """Short, and hardly one like no other."""
    enough = len(values) * 2 >= rows and len(set(values)) * 2 <= len(values)
    return enough and sum(map(len, values)) <= 40 * len(values)


def _are_sayings(values: list[str]) -> bool:
    """Most have several words."""
    return sum(" " in value.strip() for value in values) * 2 > len(values)


def _by_content(
    rows: Sequence[Mapping[str, object]], names: list[str]
) -> tuple[Shape, dict[str, str]] | None:
    texts: dict[str, list[str]] = {}
    for name in names:
        values = [value for row in rows if isinstance(value := row.get(name), str) and value.strip()]
        if values and len(values) * 2 >= len(rows):
            texts[name] = values
    if not texts:
        return None
    length = {name: sum(map(len, values)) / len(values) for name, values in texts.items()}
    longest = max(names, key=lambda name: length.get(name, 0.0))
    others = [name for name in texts if name != longest]
    if not others:
        return "document", {"text": longest}
    few = {name: texts[name] for name in others if _are_few(texts[name], len(rows))}
    label = _likeliest_label(few)
    # Beside what two people say, numbers are rather what somebody thought of it.
    sayings = [name for name in texts if name not in few and _are_sayings(texts[name])]
    if few and (_are_words(few[label]) or len(sayings) < 2):
        return "labelled", {"text": longest, "label": label}
    others = [name for name in sayings if name != longest] if few else others
    second = max(others, key=lambda name: length[name])
    prompt, completion = sorted((longest, second), key=names.index)
    return "prompt_completion", {"prompt": prompt, "completion": completion}
