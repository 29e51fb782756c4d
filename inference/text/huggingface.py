"""Vocabularies the `tokenizers` library reads: tokenizer.json. Knows nothing of GGUF, of chats or of torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import tokenizers

from inference.formats.errors import ModelFileError
from inference.formats.json_file import json_object, read_text
from inference.text.tokenizer import SpecialToken, Tokenizer


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: every byte as one printable character (bytes that are not printable from 256 on)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class HuggingFaceTokenizer(Tokenizer):
    """A vocabulary of the `tokenizers` library, its specials parsed by us and never by the library."""

    def __init__(self, backend: tokenizers.Tokenizer, description: dict[str, Any]) -> None:
        added = backend.get_added_tokens_decoder()
        super().__init__(
            {
                token.content: SpecialToken(id, token.content, lstrip=token.lstrip, rstrip=token.rstrip)
                for id, token in added.items()
                if token.special and token.content
            }
        )
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self._first = backend
        self._later = _never_prefixing(description) or backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        decoders = _decoder_kinds(description.get("decoder"))
        self._byte_level = "ByteLevel" in decoders
        self.strips_leading_space = "Strip" in decoders or "Metaspace" in decoders
        self._bytes = self._all_token_bytes({id: token.content for id, token in added.items()})
        self._prefix = self._find_prefix()

    @classmethod
    def from_file(cls, path: Path) -> HuggingFaceTokenizer:
        """Raises ModelFileError where the file is missing or not a tokenizer.json we can detokenise."""
        text = read_text(path)
        description = json_object(path, text)
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise ModelFileError(path, f"is not a tokenizer this version can read: {error}.") from error
        kinds = _decoder_kinds(description.get("decoder"))
        if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
            raise ModelFileError(
                path, "uses a kind of vocabulary that is not supported (byte-level or sentencepiece)."
            )
        return cls(backend, description)

    @classmethod
    def from_backend(cls, backend: tokenizers.Tokenizer) -> HuggingFaceTokenizer:
        return cls(backend, {"decoder": {"type": "ByteLevel"}})

    @property
    def prompt_prefix(self) -> list[int]:
        return list(self._prefix)

    def set_prompt_prefix(self, ids: list[int]) -> None:
        """For vocabularies that keep this knowledge elsewhere than in their tokenizer.json; before first use."""
        self._prefix = ids

    def encode_text(self, text: str, *, first: bool) -> list[int]:
        backend = self._first if first else self._later
        # Half of a surrogate pair cannot be UTF-8; it becomes the replacement character, as everywhere else.
        text = text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")
        ids = backend.encode(text, add_special_tokens=False).ids
        return self.without_specials(ids, text, first=first)

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def _all_token_bytes(self, added: dict[int, str]) -> list[bytes]:
        table = [b""] * (max(self._first.get_vocab(with_added_tokens=True).values(), default=-1) + 1)
        for piece, id in self._first.get_vocab(with_added_tokens=False).items():
            table[id] = _byte_level(piece) if self._byte_level else _metaspace(piece)
        for id, content in added.items():
            # Gemma lists its runs of spaces here too, as pieces.
            plain = content.encode() if self._byte_level else _metaspace(content)
            table[id] = b"" if content in self.specials else plain
        return table

    def _find_prefix(self) -> list[int]:
        with_prefix = self._first.encode("a", add_special_tokens=True).ids
        plain = self._first.encode("a", add_special_tokens=False).ids
        return with_prefix[: with_prefix.index(plain[0])] if plain and plain[0] in with_prefix else []


def _byte_level(piece: str) -> bytes:
    alphabet = _byte_of_character()
    try:
        return bytes(alphabet[character] for character in piece)
    except KeyError:
        return piece.encode("utf-8", errors="replace")


def _metaspace(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode("utf-8", errors="replace")


def _decoder_kinds(decoder: Any) -> set[str]:
    if not isinstance(decoder, dict):
        return set()
    inner = decoder.get("decoders") or []
    return {str(decoder.get("type"))}.union(*(_decoder_kinds(part) for part in inner))


def _never_prefixing(description: dict[str, Any]) -> tokenizers.Tokenizer | None:
    """The tokenizer for what follows a special token, where only the start of the prompt gets a space before it."""
    changed = json.loads(json.dumps(description))
    pre = changed.get("pre_tokenizer") or {}
    found = False
    for part in [pre, *(pre.get("pretokenizers") or [])]:
        if part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
            found = True
    if not found:
        return None
    later = tokenizers.Tokenizer.from_str(json.dumps(changed))
    later.encode_special_tokens = True
    later.no_truncation()
    later.no_padding()
    return later
