"""In which language a text is, by py3langid (naive Bayes over bytes, 97 languages). Knows nothing of files."""

from __future__ import annotations

import re

UNKNOWN = "unknown"
_ENOUGH = 20  # letters; of fewer, guesses are wrong more often than not
_LOOKED_AT = 300  # characters
_NOT_LETTERS = re.compile(r"[\W\d_]+")


def language_of(text: str) -> str:
    """ISO 639-1, or UNKNOWN where there is too little of it."""
    # Its model takes half a second to open, so only where it is needed.
    import py3langid

    start = text[:_LOOKED_AT]
    if len(_NOT_LETTERS.sub("", start)) < _ENOUGH:
        return UNKNOWN
    language: str = py3langid.classify(start)[0]
    return language
