"""What can be wrong with data: a code, where it is, what was read there, why it is wrong and what to do.

Knows nothing of how it is found. Codes are OpenAI's where they have one for it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_EXCERPT = 160  # characters


class Problem(msgspec.Struct, omit_defaults=True):
    code: str  # "missing_messages_list"
    severity: Literal["error", "warning", "notice"]  # an error's example is left out of the dataset
    file: str  # as the person named it
    line: int  # from 1; 0: the file as a whole
    path: str  # "messages[2].role"
    excerpt: str  # what was read there, cut to MAX_EXCERPT
    reason: str  # a sentence
    remedy: str  # a sentence: what to do about it


class DataError(Exception):
    """Nothing can be done with this data. `code` is stable; the message is a sentence a person can act on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
