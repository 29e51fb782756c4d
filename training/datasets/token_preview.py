"""Examples as their tokens, with those marked that are learnt, and that would be lost. Knows nothing of pages."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from inference.text.tokenizer import Tokenizer
from training.datasets.report import PreviewToken
from training.encoding import Encoded

_MOST = 400  # tokens
_LOST = 100  # characters


def token_preview(encoded: Encoded, tokenizer: Tokenizer, max_tokens: int) -> list[PreviewToken]:
    """A character of several tokens stands with the last of them. `max_tokens` 0: none is lost."""
    texts = _texts(encoded.ids[:_MOST], tokenizer)
    return [
        PreviewToken(text, trained, 0 < max_tokens <= place)
        for place, (text, trained) in enumerate(zip(texts, encoded.trained, strict=False))
    ]


def lost_text(encoded: Encoded, tokenizer: Tokenizer, max_tokens: int) -> str:
    """How what stands beyond `max_tokens` begins, on one line."""
    lost = "".join(_texts(encoded.ids[max_tokens : max_tokens + _MOST], tokenizer))
    return " ".join(lost.lstrip("\ufffd").split())[:_LOST]


def _texts(ids: list[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Of each token."""
    specials = {special.id: special.content for special in tokenizer.specials.values()}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for id in ids:
        if id in specials:
            yield decoder.decode(b"", final=True) + specials[id]
        else:
            yield decoder.decode(tokenizer.token_bytes(id))
