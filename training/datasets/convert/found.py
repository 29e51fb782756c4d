"""Collects what is wrong with one example, all of it. Knows nothing of what examples are."""

from __future__ import annotations

from training.datasets.codes import problem
from training.datasets.problems import Problem


class Found:
    def __init__(self, file: str, line: int) -> None:
        self._file, self._line = file, line
        self.problems: list[Problem] = []
        self.broken = False  # by an error: the example is left out

    def say(self, code: str, path: str, excerpt: object, reason: str) -> None:
        found = problem(code, self._file, self._line, path, excerpt, reason)
        self.problems.append(found)
        self.broken = self.broken or found.severity == "error"
