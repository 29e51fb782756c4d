"""Turns a stream of tokens into text, as far as it is certain, and finds stop strings in it. Knows no vocabulary.

Two things are held back: bytes that are only the beginning of a character, and text that could be the beginning of
a stop string. The text given out never has to be taken back.
"""

from __future__ import annotations

import codecs


class IncrementalDetokenizer:
    """One per sequence. After `push` or `finish` has met a stop string, `stopped` is set and nothing more comes.

    What is given out does not depend on how the bytes are cut: the first stop string to be complete ends the text,
    and the longest of those that are complete at the same character.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, strips_leading_space: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(text for text in stop if text)
        self._longest = max((len(text) for text in self._stop), default=0)
        self._held = ""
        self._strip = strips_leading_space
        self.stopped = False

    def push(self, token: bytes) -> str:
        """The text that became certain by this token's bytes."""
        return self._add(self._decoder.decode(token))

    def finish(self) -> str:
        """What was held back: nothing more will come. Half a character becomes U+FFFD."""
        certain = self._add(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return certain + held

    def _add(self, text: str) -> str:
        if self.stopped:
            return ""
        if self._strip and text:
            text, self._strip = text.removeprefix(" "), False
        if not self._stop:
            return text
        searched = len(self._held)
        self._held += text
        ends = self._first_stop(searched)
        if ends is not None:
            certain, self._held, self.stopped = self._held[:ends], "", True
            return certain
        keep = self._possible_start()
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def _first_stop(self, searched: int) -> int | None:
        """Where the first complete stop string begins; those ending within `searched` were looked for before."""
        found: list[tuple[int, int]] = []
        for stop in self._stop:
            begin = self._held.find(stop, max(0, searched - len(stop) + 1))
            if begin >= 0:
                found.append((begin + len(stop), begin))
        return min(found)[1] if found else None

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(len(stop) > length and stop.startswith(tail) for stop in self._stop):
                return length
        return 0
