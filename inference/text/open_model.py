"""Opens what of a model has to do with text: vocabulary, chat template, limits. Knows nothing of torch or weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.formats.gguf_file import GgufFile, read_gguf
from inference.formats.json_file import read_optional_json
from inference.formats.model_files import find_model
from inference.text.chat_template import ChatTemplate
from inference.text.gguf_vocabulary import template_names_from_gguf, tokenizer_from_gguf
from inference.text.open_tokenizer import special_names, template_from_folder, tokenizer_from_folder
from inference.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextModel:
    tokenizer: Tokenizer
    template: ChatTemplate | None
    end_token_ids: frozenset[int]
    context_length: int  # 0: its files do not say


def open_text_model(path: Path) -> TextModel:
    """A GGUF, or a folder. Raises ModelFileError, and TemplateError for a template that cannot be used."""
    files = find_model(path)
    if files.gguf:
        file = read_gguf(files.gguf)
        tokenizer, template = text_of_gguf(file)
        context: Any = file.metadata.get(f"{file.architecture}.context_length")
        embeddings: Any = (
            file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0
        )
        ends: list[Any] = []
    else:
        tokenizer, template = text_of_folder(files.folder)
        config = read_optional_json(files.folder / "config.json")
        config |= config.get("text_config") or {}
        context, embeddings = config.get("max_position_embeddings"), config.get("vocab_size")
        ends = _listed(config.get("eos_token_id"))
    if isinstance(embeddings, int) and embeddings > 0:
        tokenizer.drop_specials_from(embeddings)
    ends += _listed(read_optional_json(files.folder / "generation_config.json").get("eos_token_id"))
    return TextModel(
        tokenizer,
        template,
        tokenizer.end_token_ids | {id for id in ends if type(id) is int},
        context if type(context) is int else 0,
    )


def text_of_gguf(file: GgufFile) -> tuple[Tokenizer, ChatTemplate | None]:
    """Raises ModelFileError, TemplateError."""
    tokenizer = tokenizer_from_gguf(file)
    source = file.metadata.get("tokenizer.chat_template")
    if not isinstance(source, str):
        return tokenizer, None
    return tokenizer, ChatTemplate(source, tokenizer, template_names_from_gguf(file))


def text_of_folder(folder: Path) -> tuple[Tokenizer, ChatTemplate | None]:
    """Raises ModelFileError, TemplateError."""
    tokenizer = tokenizer_from_folder(folder)
    source = template_from_folder(folder)
    return tokenizer, None if source is None else ChatTemplate(source, tokenizer, special_names(folder))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
