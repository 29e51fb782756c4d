"""The problems that only a look at usable examples finds. Knows nothing of how they are found."""

from __future__ import annotations

from typing import Literal

from training.datasets.codes import shown
from training.datasets.examples import Record
from training.datasets.problems import MAX_EXCERPT, Problem
from training.datasets.texts import excerpt_of

_PERSONAL = {
    "key": "a secret key",
    "email": "an email address",
    "iban": "a bank account number",
    "card": "a payment card number",
    "ssn": "a US social security number",
    "ip": "the address of a machine",
    "phone": "a telephone number",
}
Severity = Literal["error", "warning", "notice"]
# severity, reason where it is always the same, remedy
_SAID: dict[str, tuple[Severity, str, str]] = {
    "nothing_to_learn": (
        "warning",
        "There is no answer in it, or no text, that could be learnt.",
        "Complete it, or leave out what is empty before freezing.",
    ),
    "template_refuses": (
        "warning",
        "",
        "Bring its messages into an order that the model knows, or choose another model.",
    ),
    "too_long": ("warning", "", "Raise the length, or cut or drop what is too long before freezing."),
    "exact_duplicate": ("warning", "", "Leave out duplicates before freezing."),
    "near_duplicate": (
        "warning",
        "",
        "Leave out near-duplicates before freezing; those that stay are kept in one split.",
    ),
    "in_evaluation_data": (
        "warning",
        "It is in the evaluation data too, so a model trained on it would be tested on what it has seen.",
        "Leave out what overlaps before freezing.",
    ),
    "conflicting_labels": (
        "warning",
        "",
        "Decide which label is right, and correct the other; or give the text both, if it may have several. Leaving "
        "out near-duplicates keeps whichever comes first.",
    ),
    "rare_label": (
        "warning",
        "",
        "Add examples of it, give it the name of a label that says nearly the same, or leave it out.",
    ),
    "outlier": (
        "notice",
        "Its length, or the share of digits and punctuation in it, is unlike that of the others.",
        "Look whether it belongs here; outliers can be left out before freezing.",
    ),
}
for _kind, _what in _PERSONAL.items():
    _SAID[f"personal_{_kind}"] = (
        "warning",
        f"It holds {_what}.",
        "Redact this kind of personal data before freezing, if nobody needs it.",
    )
CODES = frozenset(_SAID)


def severity_of(code: str) -> str:
    return _SAID[code][0]


def problem_with(
    record: Record, files: list[str], code: str, *, reason: str = "", path: str = "", excerpt: str = ""
) -> Problem:
    severity, usual_reason, remedy = _SAID[code]
    return Problem(
        code=code,
        severity=severity,
        file=name_of(record, files),
        line=record.line,
        path=path,
        excerpt=shown(excerpt or excerpt_of(record.example, MAX_EXCERPT)),
        reason=reason or usual_reason,
        remedy=remedy,
    )


def name_of(record: Record, files: list[str]) -> str:
    """As the person named it; of an archive, the file in it."""
    if record.path:
        return record.path
    return files[record.file] if record.file < len(files) else f"file {record.file + 1}"
