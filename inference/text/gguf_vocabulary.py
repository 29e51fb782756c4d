"""Builds a tokenizer from the vocabulary inside a GGUF file. Knows nothing of tensors, of chats or of torch.

A GGUF stores tokens, merges and the name of a pre-tokenizer; the regular expressions behind the names are
those of llama.cpp (src/llama-vocab.cpp) in the form the original tokenizer.json files have them.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import GgufFile
from inference.text.gguf_sentencepiece import sentencepiece_from_gguf
from inference.text.huggingface import HuggingFaceTokenizer
from inference.text.tokenizer import Tokenizer

_CONTROL, _USER_DEFINED = 3, 4

# The two differ in how many digits make one piece.
_DIGITS_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _DIGITS_PATTERN % "{1,3}"
_QWEN2 = _DIGITS_PATTERN % ""


def _by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer | None:
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if name in ("default", "gpt-2"):
        return gpt2
    if name in ("llama-bpe", "llama3", "llama-v3"):
        return _by_pattern(_LLAMA3)
    if name in ("qwen2", "deepseek-r1-qwen"):
        return _by_pattern(_QWEN2)
    return None


def tokenizer_from_gguf(file: GgufFile) -> Tokenizer:
    """Raises ModelFileError where the vocabulary is missing, inconsistent or of a kind we do not read."""
    metadata = file.metadata
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise ModelFileError(file.path, "holds no tokenizer.")
    if kind not in ("gpt2", "llama"):
        raise ModelFileError(
            file.path,
            f"has a vocabulary of kind {kind!r}; only byte-level BPE ('gpt2') and sentencepiece ('llama') can be read.",
        )
    tokens = _strings(file, "tokenizer.ggml.tokens")
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        raise ModelFileError(file.path, f"has {len(tokens)} tokens, but not as many token types.")
    if len({*tokens}) != len(tokens):
        raise ModelFileError(file.path, "stores the same token twice.")
    tokenizer = (
        _byte_level_bpe(file, tokens, types)
        if kind == "gpt2"
        else sentencepiece_from_gguf(file, tokens, types)
    )
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    tokenizer.bos_token_id = bos if isinstance(bos, int) and 0 <= bos < tokenizer.vocab_size else None
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [metadata.get(f"tokenizer.ggml.{key}") for key in keys]
    tokenizer.end_token_ids = frozenset(
        id for id in found if isinstance(id, int) and 0 <= id < tokenizer.vocab_size
    )
    return tokenizer


def _byte_level_bpe(file: GgufFile, tokens: list[str], types: list[Any]) -> Tokenizer:
    name = str(file.metadata.get("tokenizer.ggml.pre", "default"))
    pre_tokenizer = _pre_tokenizer(name)
    if pre_tokenizer is None:
        raise ModelFileError(file.path, f"splits its text by the rules {name!r}, which are not known here.")
    pairs = [merge.partition(" ") for merge in _strings(file, "tokenizer.ggml.merges")]
    merges = [(left, right) for left, _, right in pairs]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    ignore_merges = name in ("llama-bpe", "llama3", "llama-v3")
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    except Exception as error:  # the library raises bare Exception
        raise ModelFileError(file.path, f"has merges that do not fit its tokens: {error}.") from error
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = tokenizers.decoders.ByteLevel()
    if name == "qwen2":
        backend.normalizer = normalizers.NFC()
    control = [token for token, type in zip(tokens, types, strict=True) if type == _CONTROL and token]
    plain = [token for token, type in zip(tokens, types, strict=True) if type == _USER_DEFINED and token]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    tokenizer = HuggingFaceTokenizer.from_backend(backend)
    bos = file.metadata.get("tokenizer.ggml.bos_token_id")
    if file.metadata.get("tokenizer.ggml.add_bos_token") and isinstance(bos, int) and 0 <= bos < len(tokens):
        tokenizer.set_prompt_prefix([bos])
    return tokenizer


def _strings(file: GgufFile, key: str) -> list[str]:
    value: Any = file.metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ModelFileError(file.path, f"holds no usable {key}.")
    # A piece that is no UTF-8 cannot be reached by merges of byte-level characters; it only keeps its id.
    return [
        item.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")
        for item in value
    ]


def template_names_from_gguf(file: GgufFile) -> dict[str, str]:
    """bos_token and eos_token, which chat templates may name."""
    tokens = file.metadata.get("tokenizer.ggml.tokens") or []
    names: dict[str, str] = {}
    for name in ("bos", "eos"):
        id = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(id, int) and 0 <= id < len(tokens):
            names[f"{name}_token"] = str(tokens[id])
    return names
