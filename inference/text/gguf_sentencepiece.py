"""Builds a sentencepiece vocabulary from the "llama" vocabulary inside a GGUF. Knows nothing of tensors or of chats.

A converter took pieces, scores and types out of a tokenizer.model; here they are put back into one, so that the library
itself encodes with them. The format is sentencepiece_model.proto of https://github.com/google/sentencepiece.
"""

from __future__ import annotations

import struct
from typing import Any

from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import GgufFile
from inference.text.sentencepiece_model import SentencePieceTokenizer

# Types of pieces, the same in both formats.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_MODEL_TYPE, _BPE, _BYTE_FALLBACK = 3, 2, 35  # a field of TrainerSpec, its value, another field
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_WHITESPACES = 2, 3, 4  # fields of NormalizerSpec


def sentencepiece_from_gguf(file: GgufFile, tokens: list[str], types: list[Any]) -> SentencePieceTokenizer:
    """`types` has one for each token. Raises ModelFileError where they do not make a vocabulary."""
    values = file.metadata
    scores = values.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelFileError(file.path, "holds no score for each of its tokens.")
    # sentencepiece wants exactly one; a converter may have made it a control token.
    unknown = types.index(_UNKNOWN) if _UNKNOWN in types else values.get("tokenizer.ggml.unknown_token_id", 0)
    try:
        pieces = [
            _piece(token, float(score), _UNKNOWN if id == unknown else kind)
            for id, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True))
        ]
        trainer = _number(_MODEL_TYPE, _BPE) + _number(_BYTE_FALLBACK, _BYTE in types)
        normalizer = (
            _bytes(_CHARSMAP, bytes(values.get("tokenizer.ggml.precompiled_charsmap", [])))
            + _number(_DUMMY_PREFIX, bool(values.get("tokenizer.ggml.add_space_prefix", True)))
            + _number(_EXTRA_WHITESPACES, bool(values.get("tokenizer.ggml.remove_extra_whitespaces", False)))
        )
        proto = b"".join(pieces) + _bytes(_TRAINER, trainer) + _bytes(_NORMALIZER, normalizer)
        tokenizer = SentencePieceTokenizer(proto, {}, frozenset())
    except (RuntimeError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise ModelFileError(file.path, "has tokens that do not make a sentencepiece vocabulary.") from error
    tokenizer.adds_bos = values.get("tokenizer.ggml.add_bos_token", True) is True
    return tokenizer


def _piece(token: str, score: float, kind: int) -> bytes:
    if kind == _USER_DEFINED:
        # Converters write these as they look; sentencepiece has its own sign for a space.
        token = token.replace(" ", "▁")
    return _bytes(
        _PIECES, _bytes(1, token.encode()) + struct.pack("<Bf", 2 << 3 | 5, score) + _number(3, kind)
    )


# --- Protocol buffers: https://protobuf.dev/programming-guides/encoding/ -----------------------------------------
def _varint(value: int) -> bytes:
    if value < 128:  # nearly always, half a million times
        return bytes((value,))
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
