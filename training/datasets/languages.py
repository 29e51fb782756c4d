"""In which language a text is, by py3langid (naive Bayes over bytes, 97 languages). Knows nothing of files."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable

UNKNOWN = "unknown"
_ENOUGH = 20  # letters; of fewer, guesses are wrong more often than not
_LOOKED_AT = 300  # characters
_NOT_LETTERS = re.compile(r"[\W\d_]+")


_opening = threading.Lock()


def language_of(text: str) -> str:
    """ISO 639-1, or UNKNOWN where there is too little of it."""
    start = text[:_LOOKED_AT]
    if len(_NOT_LETTERS.sub("", start)) < _ENOUGH:
        return UNKNOWN
    return open_classifier()(start)[0]


@functools.cache
def open_classifier() -> Callable[[str], tuple[str, float]]:
    """Takes half a second and 75 MB the first time; of threads that want it at once, one opens it."""
    import py3langid

    with _opening:
        py3langid.rank("")
    classify: Callable[[str], tuple[str, float]] = py3langid.classify
    return classify
