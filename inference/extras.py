"""What a generation gives besides its text: logprobs, a vector, scores, as its log and its final row hold them.

Logprobs have the shape of OpenAI's API. Knows no engine and no torch: the site reads them, too.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.engine.interface import TokenLogprob
    from inference.stream import Event

# One token: {"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}]}.
Item = dict[str, Any]

# What stands for less: no database's JSON has an infinity. The number is OpenAI's.
_LEAST = -9999.0


@dataclass
class Extras:
    """Of one generation, through all its attempts. None is what was not asked for."""

    logprobs: list[Item] | None = None
    prompt_logprobs: list[Item] | None = None
    result: dict[str, Any] = field(default_factory=dict)  # "embedding" or "scores"
    refusal: dict[str, int] = field(default_factory=dict)  # the figures of a refusal

    @classmethod
    def logged(cls, events: Iterable[Event]) -> Extras:
        """Those in a log."""
        extras = cls()
        for event in events:
            if event.type == "text" and "logprobs" in event.data:
                extras.add_logprobs(event.data["logprobs"])
            elif event.type == "prompt":
                extras.prompt_logprobs = event.data["logprobs"]
            elif event.type == "result":
                extras.result = event.data
        return extras

    def add_logprobs(self, items: list[Item]) -> None:
        if self.logprobs is None:
            self.logprobs = []
        self.logprobs += items

    def as_row(self) -> dict[str, Any]:
        """The value of `Generation.extras`."""
        asked = {"logprobs": self.logprobs, "prompt_logprobs": self.prompt_logprobs}
        return (
            {name: items for name, items in asked.items() if items is not None} | self.result | self.refusal
        )


def logprob_items(scores: Sequence[TokenLogprob]) -> list[Item]:
    """Each token's; `logprob` is None for the first of a prompt, which nothing comes before."""
    return [
        {
            **_item(score.token, score.logprob),
            "top_logprobs": [_item(other.token, other.logprob) for other in score.top],
        }
        for score in scores
    ]


def _item(token: bytes, logprob: float | None) -> Item:
    # PostgreSQL stores no NUL; `bytes` has it still.
    text = token.decode(errors="replace").replace("\x00", "\ufffd")
    return {
        "token": text,
        "logprob": None if logprob is None else max(_LEAST, logprob),
        "bytes": list(token),
    }


def packed_vector(vector: Sequence[float]) -> str:
    """Base64 of little-endian float32, as OpenAI's API gives embeddings."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
