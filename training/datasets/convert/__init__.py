"""From a row as it stands in a file to an example, or to everything that is wrong with it.

Knows nothing of how files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from training.datasets.convert import conversations, texts
from training.datasets.convert.found import Found
from training.datasets.examples import Example
from training.datasets.problems import Problem
from training.datasets.readers.rows import NoValue
from training.datasets.shapes import FIELDS, GROUP_NAMES, LABEL_FIELDS
from training.datasets.sources import Reading, Shape

_CONVERT: dict[Shape, Callable[[Mapping[str, object], Found], Example]] = {
    "chat": conversations.chat,
    "sharegpt": conversations.sharegpt,
    "prompt_completion": conversations.prompt_completion,
    "alpaca": conversations.alpaca,
    "preference": conversations.preference,
    "labelled": texts.labelled,
    "translation": texts.translation,
    "document": texts.document,
}
_NOT_SAVED = "The file has the formula, and not what it comes to."
_LISTS = ("messages", "conversations")  # a row without them has an OpenAI code of its own
_KNOWN = frozenset((*GROUP_NAMES, "tools", "functions"))  # used, or told in another way
_MOST_UNUSED = 1000


class Converter:
    """Of the rows of one file."""

    def __init__(self, reading: Reading, file: str) -> None:
        self._shape, self._file = reading.shape, file
        self._convert = _CONVERT[reading.shape]
        self.unused: list[str] = []  # fields that hold something, of which nothing was used
        self._names = [(field, names) for field, names in _field_names(reading) if names]
        taken = set(reading.columns.values())
        mapped = reading.columns.get("group")
        self._groups = tuple(n for n in GROUP_NAMES if n not in taken) if mapped is None else (mapped,)
        self._seen = {*_KNOWN, *self._groups}
        self._required = [
            name for name, field in FIELDS[reading.shape].items() if field.required and name not in _LISTS
        ]

    def convert(self, line: int, value: object) -> tuple[Example | None, str, list[Problem]]:
        """The example, its group, and what is wrong with it; no example where an error is among that."""
        found = Found(self._file, line)
        if isinstance(value, str) and self._shape == "document":
            value = {"text": value}
        if not isinstance(value, dict):
            found.say("data_type", "", value, "An example is an object with named fields.")
            return None, "", found.problems
        fields: dict[str, object] = {}
        for field, names in self._names:
            for name in names:
                if name in value:
                    fields[field] = value[name]
                    break
                if "." in name and (inner := _inside(value, name)) is not None:
                    fields[field] = inner
                    break
        if not self._seen.issuperset(value):
            self._note_unused(value)
        for field, cell in fields.items():
            if isinstance(cell, NoValue):
                found.say(
                    "no_value", field, cell, _NOT_SAVED if cell.startswith("=") else f"The cell says {cell}."
                )
        if found.broken:
            return None, "", found.problems
        missing = [field for field in self._required if field not in fields]
        for field in missing:
            found.say("missing_column", field, value, f"The example has no {field!r}.")
        if missing:
            return None, "", found.problems
        if value.get("tools") or value.get("functions"):
            found.say("tools_ignored", "tools", value.get("tools"), "Tools cannot be offered here.")
        example = self._convert(fields, found)
        return None if found.broken else example, self._group(value), found.problems

    def _note_unused(self, value: dict[str, object]) -> None:
        unused = [name for name in _unused(self._names, value) if name not in self._seen]
        self._seen.update(value.keys() - unused)
        for name in unused:
            if value[name] not in (None, "", [], {}):
                self._seen.add(name)
                if len(self.unused) < _MOST_UNUSED:
                    self.unused.append(name)

    def _group(self, value: dict[str, object]) -> str:
        for name in self._groups:
            group = value.get(name)
            if isinstance(group, str) and group:
                return group[:200]
            if isinstance(group, int) and not isinstance(group, bool) and -(2**63) <= group < 2**63:
                return str(group)
        return ""


def unused_of(reading: Reading, names: Iterable[str]) -> list[str]:
    """Of a row with fields of these names, those of which nothing is used."""
    known = {*_KNOWN, reading.columns.get("group")}
    return [name for name in _unused(_field_names(reading), names) if name not in known]


def _unused(fields: list[tuple[str, tuple[str, ...]]], there: Iterable[str]) -> Iterable[str]:
    left = dict.fromkeys(there)
    for _, names in fields:
        for name in names:
            place = name if name in left else name.partition(".")[0]
            if place in left:
                del left[place]
                break
    return left


def _field_names(reading: Reading) -> list[tuple[str, tuple[str, ...]]]:
    """What each field may be called: as the person mapped it (to "", if it is not there), else as is usual."""
    taken = set(reading.columns.values())
    labels_mapped = any(reading.columns.get(field) for field in LABEL_FIELDS)
    names: list[tuple[str, tuple[str, ...]]] = []
    for field, usual in FIELDS[reading.shape].items():
        if field in reading.columns:
            names.append((field, (reading.columns[field],) if reading.columns[field] else ()))
        elif not (reading.shape == "labelled" and field in LABEL_FIELDS and labels_mapped):
            names.append((field, tuple(name for name in usual.names if name not in taken)))
    return names


def _inside(value: dict[str, object], path: str) -> object:
    """ "translation.de" of {"translation": {"de": ...}}."""
    inner: object = value
    for name in path.split("."):
        inner = inner.get(name) if isinstance(inner, dict) else None
    return inner
