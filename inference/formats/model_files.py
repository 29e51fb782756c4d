"""Finds the files of a model in a folder or as a GGUF. Knows nothing of what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inference.formats.errors import ModelFileError
from inference.formats.safetensors_file import find_weights

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FOLDER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class ModelFiles:
    folder: Path  # generation_config.json is looked for here
    gguf: Path | None  # None for a Hugging Face folder
    weights: list[Path]
    content: list[Path]  # what the digest is taken of

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.content)


def find_model(path: Path) -> ModelFiles:
    """`path` is a GGUF, a Hugging Face folder, or a folder with one GGUF. Raises ModelFileError."""
    if not path.exists():
        raise ModelFileError(path, f"is not there ({path}).")
    if path.is_file():
        if path.suffix.lower() in _PICKLES:
            raise ModelFileError(path, _pickled())
        return _gguf(path)
    if (path / "config.json").exists():
        return _folder(path)
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        return _gguf(found[0])
    if found:
        raise ModelFileError(path, f"holds {len(found)} GGUF files; name one of them.")
    raise ModelFileError(path, "holds neither a config.json nor a GGUF file, so it is no model.")


def _gguf(path: Path) -> ModelFiles:
    return ModelFiles(path.parent, path, [path], [path])


def _folder(path: Path) -> ModelFiles:
    safe = [path / "model.safetensors", path / "model.safetensors.index.json"]
    if not any(file.exists() for file in safe) and any(file.suffix in _PICKLES for file in path.iterdir()):
        raise ModelFileError(path, _pickled())
    weights = find_weights(path)
    return ModelFiles(
        path, None, weights, [*weights, *(path / n for n in _FOLDER_FILES if (path / n).is_file())]
    )


def _pickled() -> str:
    return "holds pickled weights, which can run code when opened and are never read here; use safetensors or a GGUF."
