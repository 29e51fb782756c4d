"""Hands out the tensors of a model file by their Hugging Face names. Knows nothing of how a model uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import gguf
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from inference.engine.config import ModelConfig
from inference.engine.pace import Pace
from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import BLOCKS, GgufFile
from inference.formats.safetensors_file import StoredTensor, read_headers

_GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_GGUF_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_GGUF_POST_NORM_NAMES = _GGUF_LAYER_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


class TensorSource(Protocol):
    """Tensors by their Hugging Face names, in whatever floating-point type they are stored."""

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Raises ModelFileError where there is none, or it is of another shape."""

    def rope_factors(self) -> torch.Tensor | None:
        """What each rotary frequency is divided by [head_dim / 2], where the file says so."""


class MovedSource:
    """The tensors of another source, on a device."""

    def __init__(self, source: TensorSource, device: torch.device) -> None:
        self._source, self._device = source, device

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self._source.get(name, shape).to(self._device)

    def rope_factors(self) -> torch.Tensor | None:
        return self._source.rope_factors()


class PacedSource:
    """The tensors of another source, with rests between them."""

    def __init__(self, source: TensorSource, pace: Pace) -> None:
        self._source, self._pace = source, pace

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self._pace.rest()
        return self._source.get(name, shape)

    def rope_factors(self) -> torch.Tensor | None:
        return self._source.rope_factors()


class SafetensorsSource:
    """One or several safetensors files, mapped into memory."""

    def __init__(self, files: list[Path]) -> None:
        self._tensors: dict[str, StoredTensor] = read_headers(files)
        self._stored_names = {_text_name(name): name for name in self._tensors}
        self._files = files
        try:
            self._open = {file: safe_open(str(file), framework="pt") for file in files}
        except (SafetensorError, OSError) as error:
            raise ModelFileError(files[0], f"cannot be read: {error}.") from error

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        stored_name = self._stored_names.get(name)
        if stored_name is None:
            raise ModelFileError(self._files[0], f"has no tensor {name}.")
        stored = self._tensors[stored_name]
        _check_shape(stored.file, name, stored.shape, shape)
        if stored.dtype not in ("F32", "F16", "BF16", "F64"):
            raise ModelFileError(
                stored.file, f"stores {name} as {stored.dtype}, which is no floating-point type."
            )
        try:
            tensor: torch.Tensor = self._open[stored.file].get_tensor(stored_name)
        except (SafetensorError, OSError) as error:
            raise ModelFileError(stored.file, f"cannot be read: {error}.") from error
        return tensor

    def rope_factors(self) -> torch.Tensor | None:
        return None


class GgufSource:
    """The tensors of a GGUF, dequantised to fp32 one at a time."""

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self._file, self._config = file, config
        try:
            self._data = np.memmap(file.path, mode="r")
        except OSError as error:
            raise ModelFileError(file.path, f"cannot be read: {error.strerror}.") from error

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        stored_name = gguf_name(name, post_norms=self._config.post_norms)
        tensor = self._read(stored_name, shape)
        # llama.cpp rotates neighbouring pairs, so its converter interleaved the two halves of each head; undo it.
        if self._config.architecture == "llama" and ".attn_q." in stored_name:
            return _uninterleave(tensor, self._config.num_heads)
        if self._config.architecture == "llama" and ".attn_k." in stored_name:
            return _uninterleave(tensor, self._config.num_kv_heads)
        return tensor

    def rope_factors(self) -> torch.Tensor | None:
        if "rope_freqs.weight" not in self._file.tensors:
            return None
        return self._read("rope_freqs.weight", (self._config.head_dim // 2,))

    def _read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        stored = self._file.tensors.get(name)
        if stored is None:
            raise ModelFileError(self._file.path, f"has no tensor {name}.")
        _check_shape(self._file.path, name, stored.shape, shape)
        raw = self._data[stored.offset : stored.offset + stored.nbytes]
        label, block, width = BLOCKS[stored.kind]
        if label in ("F32", "F16", "BF16"):
            dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[label]
            return torch.from_numpy(np.array(raw)).view(dtype).view(shape)
        rows = raw.reshape(-1, shape[-1] // block * width)
        values = gguf.dequantize(rows, gguf.GGMLQuantizationType(stored.kind))
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).view(shape)


def _check_shape(path: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise ModelFileError(
            path, f"stores {name} as {list(found)}, but its configuration asks for {list(wanted)}."
        )


def _text_name(name: str) -> str:
    """What a tensor of a model that also sees is called in one that only reads."""
    return name.removeprefix("language_model.").replace("model.language_model.", "model.", 1)


def gguf_name(name: str, *, post_norms: bool) -> str:
    """What a GGUF calls the tensor of this Hugging Face name."""
    if name in _GGUF_NAMES:
        return _GGUF_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    names = _GGUF_POST_NORM_NAMES if post_norms else _GGUF_LAYER_NAMES
    return f"blk.{layer}.{names[part]}.{kind}"


def _uninterleave(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    shape = tensor.shape
    return tensor.view(heads, -1, 2, *shape[1:]).transpose(1, 2).reshape(shape)


def interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """As a GGUF of Llama stores the rows of its queries and keys."""
    shape = tensor.shape
    return tensor.view(heads, 2, -1, *shape[1:]).transpose(1, 2).reshape(shape)
