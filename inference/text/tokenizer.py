"""Turns text into token ids and ids back into bytes. Knows nothing of torch, of chats or of who wrote the text.

One small interface over the kinds of vocabulary we read: `huggingface.py` (tokenizer.json, and the byte-level
BPE of a GGUF) and `sentencepiece_model.py` (tokenizer.model). `open_tokenizer` chooses.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialToken:
    """A token that steers the model and is no text: `<|im_end|>`. Only templates may write one."""

    id: int
    content: str
    # Swallows the white space on that side, as the flags of the same name in tokenizer.json say.
    lstrip: bool = False
    rstrip: bool = False


class Tokenizer(ABC):
    """A vocabulary. Implementations are thread-safe and never change after construction."""

    vocab_size: int
    bos_token_id: int | None = None
    end_token_ids: frozenset[int] = frozenset()
    # Llama's sentencepiece vocabularies write the start of a text as if after a space.
    strips_leading_space: bool = False

    def __init__(self, specials: dict[str, SpecialToken]) -> None:
        self._set_specials(specials)

    def _set_specials(self, specials: dict[str, SpecialToken]) -> None:
        self.specials = specials
        self.special_ids = frozenset(special.id for special in specials.values())
        # Longest first, so that <|im_start|> is not read as a shorter token it begins with.
        longest_first = sorted(specials, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text) for text in longest_first)) if specials else None

    def drop_specials_from(self, id: int) -> None:
        """For a model without embeddings for its last special tokens, which then are no tokens; before first use.

        The smaller Gemma 3 models share a vocabulary with those that see, whose last token stands for an image.
        """
        kept = {text: special for text, special in self.specials.items() if special.id < id}
        self.vocab_size -= len(self.specials) - len(kept)
        self._set_specials(kept)

    @abstractmethod
    def encode_text(self, text: str, *, first: bool) -> list[int]:
        """Ids of plain text: what looks like a special token in it is encoded as the characters it is made of.

        `first`: the text is at the very start of the prompt.
        """

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to the text: UTF-8, perhaps half a character; nothing for a special token."""

    @property
    def prompt_prefix(self) -> list[int]:
        """What the vocabulary puts before every raw prompt: nothing, or the beginning-of-text token."""
        return []

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`. With `special`, special tokens written in it are parsed; never do that to a person's text."""
        if not special:
            return self.encode_text(text, first=True) if text else []
        ids: list[int] = []
        for part in self.split_specials(text):
            if isinstance(part, SpecialToken):
                ids.append(part.id)
            else:
                ids += self.encode_text(part, first=not ids)
        return ids

    def split_specials(self, text: str) -> Iterator[str | SpecialToken]:
        """The special tokens in `text` and the non-empty texts between them, in order."""
        start, strip_next = 0, False
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self.specials[match.group()]
            between = text[start : match.start()]
            between = between.lstrip() if strip_next else between
            between = between.rstrip() if token.lstrip else between
            if between:
                yield between
            yield token
            start, strip_next = match.end(), token.rstrip
        rest = text[start:].lstrip() if strip_next else text[start:]
        if rest:
            yield rest

    def without_specials(self, ids: list[int], text: str, *, first: bool) -> list[int]:
        """`ids`, if plain text did not become a special token after all; else the text encoded piece by piece.

        Vocabularies whose special tokens can be reached by ordinary merges exist; this closes that door.
        """
        if self.special_ids.isdisjoint(ids):
            return ids
        if len(text) < 2:
            return [token for token in ids if token not in self.special_ids]
        half = len(text) // 2
        return self.encode_text(text[:half], first=first) + self.encode_text(text[half:], first=False)
