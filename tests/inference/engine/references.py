"""What transformers makes of a GGUF, for tests that ask it what the engine should say."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import tempfile
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import gguf
import torch
from django.conf import settings
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint


def gguf_reference(path: Path) -> PreTrainedModel:
    """transformers' own reading of a GGUF, without the package its from_pretrained asks for."""
    # It reads the file twice, and makes its table of names for each module: 20 s instead of 5.
    with (
        mock.patch.object(gguf, "GGUFReader", functools.cache(gguf.GGUFReader)),
        mock.patch.object(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
    ):
        values = load_gguf_checkpoint(str(path))["config"]
        config = AutoConfig.for_model(**values)
        with torch.device("meta"):
            shell = AutoModelForCausalLM.from_config(config)
        state = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=shell)["tensors"]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    model.tie_weights()
    return model


def kept_reference(path: Path) -> PreTrainedModel:
    """The same of a real model, which takes transformers many seconds to read: its numbers are kept between runs, for
    exactly this file and these versions of whoever read it."""
    folder: Path = settings.MODEL_CACHE / "references"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update("".join(version(package) for package in ("transformers", "gguf")).encode())
    kept = folder / digest.hexdigest()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / "made"
                gguf_reference(path).save_pretrained(made)
                made.rename(kept)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(kept, dtype=torch.float32)
    return model.eval()
