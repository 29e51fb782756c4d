"""Labelled texts, translations and documents out of rows. Knows nothing of files.

An empty label is kept as the label "" and an empty text as "", so that cleaning may fill or drop them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from training.datasets.convert.found import Found
from training.datasets.encodings import MARK
from training.datasets.examples import DocumentExample, LabelledExample, TranslationExample

Fields = Mapping[str, object]
_SEPARATORS = "|;,"
# A comma between thousands, or a decimal one: of 250,000 nobody can tell.
_EITHER_COMMA = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")


def labelled(fields: Fields, found: Found) -> LabelledExample:
    text = _text(fields.get("text"), "text", found)
    if "value" in fields:
        return LabelledExample(text, value=_value(fields["value"], found))
    if "labels" in fields:
        labels = _labels(fields["labels"], found)
    elif "label" in fields:
        labels = (
            _labels(one, found) if isinstance(one := fields["label"], list) else [_label(one, "label", found)]
        )
        if labels == [""] and text and not found.broken:
            found.say("empty_field", "label", fields["label"], "The label is empty.")
    else:
        found.say("missing_column", "label", fields.get("text"), "The row has no label.")
        labels = []
    if not text and not found.broken:
        if not any(labels):
            found.say("empty_example", "", "", "Text and label are empty.")
        else:
            found.say("empty_field", "text", fields.get("text"), "The text is empty.")
    return LabelledExample(text, labels)


def translation(fields: Fields, found: Found) -> TranslationExample:
    source = _text(fields.get("source"), "source", found)
    target = _text(fields.get("target"), "target", found)
    if found.broken:
        return TranslationExample("", "")
    if not source and not target:
        found.say("empty_example", "", "", "Source and target are empty.")
    elif not source or not target:
        field = "target" if source else "source"
        found.say("empty_field", field, source or target, f"The {field} is empty.")
    return TranslationExample(source, target)


def document(fields: Fields, found: Found) -> DocumentExample:
    text = _text(fields.get("text"), "text", found)
    if not text and not found.broken:
        found.say("empty_example", "text", "", "The text is empty.")
    if (at := text.find(MARK)) >= 0:
        around = text[max(0, at - 60) : at + 60]
        found.say("invalid_encoding", "text", around, "Some of its bytes are no characters of the encoding.")
    title = fields.get("title")
    return DocumentExample(text, title if isinstance(title, str) else "")


def _text(value: object, field: str, found: Found) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | dict | list):
        found.say("data_type", field, value, f"The {field} is not a text.")
        return ""
    text = value if isinstance(value, str) else _plain_number(value)
    return "" if text.isspace() else text


def _value(value: object, found: Found) -> float | None:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        text = value.strip() if isinstance(value, str) else value
        if isinstance(text, str) and _EITHER_COMMA.fullmatch(text):
            whole, point = text.replace(",", ""), text.replace(",", ".")
            found.say(
                "bad_value", "value", value, f"Its comma can be read in two ways; write {whole} or {point}."
            )
            return None
        if isinstance(text, str) and text.count(",") == 1 and "." not in text:
            text = text.replace(",", ".")
        number = float(text)
    except (ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    found.say("bad_value", "value", value, "The value is not a finite number.")
    return None


def _labels(value: object, found: Found) -> list[str]:
    if value is None or value == "":
        return []  # none of them, which is an answer
    if isinstance(value, str):
        if value.startswith("["):
            try:
                value = msgspec.json.decode(value, type=list)
            except (msgspec.DecodeError, RecursionError, ValueError):
                found.say("bad_label", "labels", value, "The labels are not a list in JSON.")
                return []
        else:
            separator = next((each for each in _SEPARATORS if each in value), _SEPARATORS[0])
            return list(dict.fromkeys(part for each in value.split(separator) if (part := each.strip())))
    if not isinstance(value, list):
        value = [value]
    labels = [_label(each, f"labels[{index}]", found) for index, each in enumerate(value)]
    return list(dict.fromkeys(label for label in labels if label))


def _label(value: object, path: str, found: Found) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _plain_number(value)
    if isinstance(value, str) and len(value) <= 1000:
        return value.strip()
    found.say("bad_label", path, value, "A label is a short text or a number.")
    return ""


def _plain_number(value: object) -> str:
    """1 for 1.0: spreadsheets know only one kind of number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int) and abs(value) >> 256:
        return hex(value)  # Python refuses to write some in decimal
    return str(value)
