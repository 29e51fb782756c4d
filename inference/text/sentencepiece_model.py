"""Vocabularies in sentencepiece's own format: tokenizer.model. Knows nothing of chats or of torch."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from inference.formats.errors import ModelFileError
from inference.text.tokenizer import SpecialToken, Tokenizer

# A serialised ModelProto that sets nothing but normalizer_spec.add_dummy_prefix to false. Protocol buffers that are
# written one after the other merge, so appending it changes that one field of any model.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model, with the special tokens its folder adds to it."""

    def __init__(self, proto: bytes, added: dict[int, str], special: frozenset[int]) -> None:
        self._first = sentencepiece.SentencePieceProcessor()
        self._first.LoadFromSerializedProto(proto)
        self._later = sentencepiece.SentencePieceProcessor()
        self._later.LoadFromSerializedProto(proto + _NO_DUMMY_PREFIX)
        size = self._first.GetPieceSize()
        control = {id: self._first.IdToPiece(id) for id in range(size) if self._first.IsControl(id)}
        control |= {id: content for id, content in added.items() if id in special or id >= size}
        super().__init__({content: SpecialToken(id, content) for id, content in control.items()})
        self.vocab_size = max([size, *(id + 1 for id in added)])
        self.strips_leading_space = self._first.EncodeAsPieces("a") != self._later.EncodeAsPieces("a")
        self.bos_token_id = self._first.bos_id() if self._first.bos_id() >= 0 else None
        self.end_token_ids = frozenset({self._first.eos_id()} - {-1})
        self._bytes = [self._piece_bytes(id) if id not in control else b"" for id in range(size)]
        self.adds_bos = False

    @classmethod
    def from_file(cls, path: Path, added: dict[int, str], special: frozenset[int]) -> SentencePieceTokenizer:
        """`added` are tokens beyond the model by id; those in `special` are control tokens."""
        try:
            return cls(path.read_bytes(), added, special)
        except OSError as error:
            raise ModelFileError(path, f"cannot be read: {error.strerror}.") from error
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(path, "is truncated or not a sentencepiece model.") from error

    @property
    def prompt_prefix(self) -> list[int]:
        return [self.bos_token_id] if self.adds_bos and self.bos_token_id is not None else []

    def encode_text(self, text: str, *, first: bool) -> list[int]:
        text = text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")
        ids = list((self._first if first else self._later).EncodeAsIds(text))
        return self.without_specials(ids, text, first=first)

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def _piece_bytes(self, id: int) -> bytes:
        if self._first.IsUnknown(id):
            return "\N{REPLACEMENT CHARACTER}".encode()
        piece = self._first.IdToPiece(id)
        if self._first.IsByte(id):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()
