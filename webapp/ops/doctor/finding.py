"""What the doctor found: the type all of its parts share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, and may surprise
    PROBLEM = "problem"  # does not work until somebody does what `advice` says


@dataclass(frozen=True)
class Finding:
    level: Level
    subject: str
    sentence: str
    advice: str = ""  # what to do; only what is well has none
    refuses: bool = False  # no process of the site starts while it is so (see `webapp.ops.start_checks`)


def ok(subject: str, sentence: str) -> Finding:
    return Finding(Level.OK, subject, sentence)


def warning(subject: str, sentence: str, advice: str) -> Finding:
    return Finding(Level.WARNING, subject, sentence, advice)


def problem(subject: str, sentence: str, advice: str) -> Finding:
    return Finding(Level.PROBLEM, subject, sentence, advice)


def refusal(subject: str, sentence: str, advice: str) -> Finding:
    """A problem with which the site would be half started, or lose what it is given."""
    return Finding(Level.PROBLEM, subject, sentence, advice, refuses=True)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, and never an empty one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
