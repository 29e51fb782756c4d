"""Loads a model from a path: configuration, vocabulary, template, weights. Knows nothing of requests."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference.engine import allocator
from inference.engine.calibration import CALIBRATION_TEXT
from inference.engine.config import ModelConfig
from inference.engine.config_folder import config_from_folder
from inference.engine.config_gguf import config_from_gguf
from inference.engine.device import CPU, multiplies_bf16, resolve_device
from inference.engine.interface import ModelLoadError
from inference.engine.model import LlamaModel
from inference.engine.pace import Pace, one_core
from inference.engine.weights import GgufSource, MovedSource, PacedSource, SafetensorsSource, TensorSource
from inference.formats.digest import content_digest
from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import GgufFile, read_gguf
from inference.formats.json_file import read_optional_json
from inference.formats.model_files import ModelFiles, find_model
from inference.text.chat_template import ChatTemplate
from inference.text.open_model import text_of_folder, text_of_gguf
from inference.text.template_host import TemplateError
from inference.text.tokenizer import Tokenizer

DTYPES = ("auto", "fp32", "bf16", "int8")


@dataclass(frozen=True)
class LoadedModel:
    """Everything an engine needs to answer with one model."""

    config: ModelConfig
    model: LlamaModel
    tokenizer: Tokenizer
    template: ChatTemplate | None
    end_token_ids: frozenset[int]
    defaults: dict[str, Any]  # generation_config.json: how the model's authors sample it
    digest: str  # SHA-256 of the content
    dtype: str  # "fp32", "bf16" or "int8"


def resolve_dtype(dtype: str, device: torch.device = CPU) -> str:
    """ "auto" is bf16 where the device multiplies it in hardware, else fp32."""
    if dtype not in DTYPES:
        raise ModelLoadError(f"The precision {dtype!r} is not one of {', '.join(DTYPES)}.")
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        return "bf16" if multiplies_bf16(device) else "fp32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


def load_model(
    path: Path,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    digest_cache: Path | None = None,
    trainable: bool = False,
    pace: Pace | None = None,
) -> LoadedModel:
    """Raises ModelLoadError, a sentence that names the file, for anything wrong with the model.

    `trainable`: see LlamaModel; not in int8. With a `pace` it is loaded by one core, and slower, while others answer.
    """
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    try:
        files = find_model(Path(path))
        load = _load_gguf if files.gguf else _load_folder
        with contextlib.nullcontext() if pace is None else one_core():
            return load(files, kind, where, digest_cache, trainable, pace)
    except ModelFileError as error:
        raise ModelLoadError(str(error)) from error
    except TemplateError as error:
        raise ModelLoadError(f"{Path(path).name}: {error}") from error
    except MemoryError as error:
        raise ModelLoadError(f"{Path(path).name}: needs more memory than this machine has.") from error
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(f"{Path(path).name}: needs more memory than this GPU has free.") from error


def _load_gguf(
    files: ModelFiles,
    kind: str,
    device: torch.device,
    digest_cache: Path | None,
    trainable: bool,
    pace: Pace | None,
) -> LoadedModel:
    assert files.gguf is not None
    file: GgufFile = read_gguf(files.gguf)
    config = config_from_gguf(file)
    tokenizer, template = text_of_gguf(file)
    source = GgufSource(file, config)
    return _assemble(files, config, tokenizer, template, source, kind, device, digest_cache, trainable, pace)


def _load_folder(
    files: ModelFiles,
    kind: str,
    device: torch.device,
    digest_cache: Path | None,
    trainable: bool,
    pace: Pace | None,
) -> LoadedModel:
    config = config_from_folder(files.folder)
    tokenizer, template = text_of_folder(files.folder)
    source = SafetensorsSource(files.weights)
    return _assemble(files, config, tokenizer, template, source, kind, device, digest_cache, trainable, pace)


def _assemble(
    files: ModelFiles,
    config: ModelConfig,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    source: TensorSource,
    kind: str,
    device: torch.device,
    digest_cache: Path | None,
    trainable: bool,
    pace: Pace | None,
) -> LoadedModel:
    tokenizer.drop_specials_from(config.vocab_size)
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelFileError(
            files.weights[0],
            f"has {config.vocab_size} embeddings, but its vocabulary has {tokenizer.vocab_size} tokens.",
        )
    defaults = read_optional_json(files.folder / "generation_config.json")
    ends = defaults.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends]
    said = tokenizer.end_token_ids | {*config.eos_token_ids} | {i for i in listed if type(i) is int}
    end_token_ids = frozenset(token for token in said if 0 <= token < config.vocab_size)
    calibration_ids = [*tokenizer.prompt_prefix, *tokenizer.encode(CALIBRATION_TEXT)][: config.context_length]
    if device.type != "cpu":
        source = MovedSource(source, device)
    if pace is not None:
        source = PacedSource(source, pace)
    # Not inference_mode: a trainer could not use tensors made in it.
    with torch.no_grad():
        model = LlamaModel(config, source, kind, calibration_ids or [0], trainable=trainable)
    gc.collect()
    allocator.give_back()
    digest = content_digest(files.content, digest_cache)
    return LoadedModel(config, model, tokenizer, template, end_token_ids, defaults, digest, kind)
