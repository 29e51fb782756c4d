"""Examples as their tokens, with those marked that are learnt. Knows nothing of how they are shown."""

from __future__ import annotations

import codecs

from inference.text.tokenizer import Tokenizer
from training.datasets.report import PreviewToken
from training.encoding import Encoded

_MOST = 400  # tokens


def token_preview(encoded: Encoded, tokenizer: Tokenizer) -> list[PreviewToken]:
    """A character of several tokens stands with the last of them."""
    specials = {special.id: special.content for special in tokenizer.specials.values()}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    shown: list[PreviewToken] = []
    for id, trained in zip(encoded.ids[:_MOST], encoded.trained, strict=False):
        text = (
            decoder.decode(b"", final=True) + specials[id]
            if id in specials
            else decoder.decode(tokenizer.token_bytes(id))
        )
        shown.append(PreviewToken(text, trained))
    return shown
