"""Finds the vocabulary of a model folder and what the folder says about it. Knows nothing of torch or weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference.formats.errors import ModelFileError
from inference.formats.json_file import read_optional_json, read_text
from inference.text.huggingface import HuggingFaceTokenizer
from inference.text.sentencepiece_model import SentencePieceTokenizer
from inference.text.tokenizer import Tokenizer

_MAX_TEMPLATE = 256 * 2**10


def tokenizer_from_folder(folder: Path) -> Tokenizer:
    """The vocabulary of a Hugging Face folder. Raises ModelFileError where there is none that can be read."""
    config = read_optional_json(folder / "tokenizer_config.json")
    tokenizer: Tokenizer
    if (folder / "tokenizer.json").exists():
        tokenizer = HuggingFaceTokenizer.from_file(folder / "tokenizer.json")
    elif (folder / "tokenizer.model").exists():
        added, special = _added_tokens(folder, config)
        piece_model = SentencePieceTokenizer.from_file(folder / "tokenizer.model", added, special)
        piece_model.adds_bos = config.get("add_bos_token", True) is True
        tokenizer = piece_model
    else:
        raise ModelFileError(
            folder / "tokenizer.json", f"is missing from {folder}, and there is no tokenizer.model."
        )
    named = special_names(folder)
    bos, eos = named.get("bos_token"), named.get("eos_token")
    if bos in tokenizer.specials:
        tokenizer.bos_token_id = tokenizer.specials[bos].id
    if eos in tokenizer.specials:
        tokenizer.end_token_ids |= {tokenizer.specials[eos].id}
    return tokenizer


def special_names(folder: Path) -> dict[str, str]:
    """bos_token, eos_token and the like, which chat templates may name."""
    config = read_optional_json(folder / "special_tokens_map.json")
    config |= read_optional_json(folder / "tokenizer_config.json")
    names: dict[str, str] = {}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            names[key] = value
    return names


def template_from_folder(folder: Path) -> str | None:
    """The source of the chat template, or None where the folder has none."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return read_text(file, _MAX_TEMPLATE)
    config = read_optional_json(folder / "tokenizer_config.json")
    template: Any = config.get("chat_template")
    if isinstance(template, list):
        named = {part.get("name"): part.get("template") for part in template if isinstance(part, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _added_tokens(folder: Path, config: dict[str, Any]) -> tuple[dict[int, str], frozenset[int]]:
    path = folder / "tokenizer_config.json"
    added: dict[int, str] = {}
    special: set[int] = set()
    try:
        for content, id in read_optional_json(folder / "added_tokens.json").items():
            added[int(id)] = str(content)
            special.add(int(id))
        for id, token in (config.get("added_tokens_decoder") or {}).items():
            added[int(id)] = str(token["content"])
            if token.get("special", True):
                special.add(int(id))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ModelFileError(path, "describes its added tokens in a way that cannot be read.") from error
    if any(not 0 <= id < 10_000_000 for id in added):
        raise ModelFileError(path, "gives an added token an absurd id.")
    return added, frozenset(special)
