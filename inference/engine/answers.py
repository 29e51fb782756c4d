"""The tokens of answers given lately. Text can be cut into tokens in many ways, and a model does not always choose the
tokenizer's: the next turn of a conversation is made of the ones it chose, so that the cache still holds their keys.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from typing import Any


class Answers:
    """As many tokens as the cache holds, the longest unused forgotten first. Any thread may ask."""

    def __init__(self, max_tokens: int) -> None:
        self._left = max_tokens
        self._lock = threading.Lock()
        self._tokens: OrderedDict[tuple[str, str], array[int]] = OrderedDict()

    def remember(self, salt: str, text: str, token_ids: list[int]) -> None:
        with self._lock:
            self._forget((salt, text))
            self._tokens[salt, text] = array("i", token_ids)
            self._left -= len(token_ids)
            while self._left < 0:
                self._forget(next(iter(self._tokens)))

    def among(self, salt: str, messages: list[dict[str, Any]]) -> dict[str, list[int]]:
        """Text and tokens of those messages that were answers given under this salt."""
        found = {}
        for message in messages:
            text = message.get("content")
            if message.get("role") != "assistant" or not isinstance(text, str):
                continue
            with self._lock:
                if (salt, text) in self._tokens:
                    self._tokens.move_to_end((salt, text))
                    found[text] = list(self._tokens[salt, text])
        return found

    def _forget(self, key: tuple[str, str]) -> None:
        self._left += len(self._tokens.pop(key, ()))
