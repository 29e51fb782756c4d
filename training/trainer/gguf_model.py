"""A whole model as a GGUF: the metadata of the one it was begun from, with new weights. Knows nothing of training."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf
import torch

from inference.engine.config import ModelConfig
from inference.engine.weights import gguf_name, interleaved

_FILE_TYPE = "general.file_type"
_FILE_TYPES = {torch.float32: gguf.LlamaFileType.ALL_F32, torch.bfloat16: gguf.LlamaFileType.MOSTLY_BF16}
# What the writer says itself.
_WRITTEN = {"general.architecture", _FILE_TYPE}


def gguf_file(
    tensors: dict[str, torch.Tensor], config: ModelConfig, base: Path, dtype: torch.dtype, scratch: Path
) -> bytes:
    """`tensors` by their Hugging Face names; matrices in `dtype`, the rest in fp32. `scratch`: a folder to write in."""
    source = gguf.GGUFReader(base)
    with tempfile.NamedTemporaryFile(dir=scratch, suffix=".gguf") as file:
        writer = gguf.GGUFWriter(file.name, str(source.fields["general.architecture"].contents()))
        for field in source.fields.values():
            if field.name not in _WRITTEN and not field.name.startswith("GGUF."):
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
        writer.add_file_type(_FILE_TYPES[dtype])
        for name, tensor in tensors.items():
            stored = _as_stored(name, tensor.detach().cpu(), config)
            wanted = dtype if stored.dim() > 1 else torch.float32
            _add(writer, gguf_name(name, post_norms=config.post_norms), stored.to(wanted).contiguous())
        for kept in source.tensors:
            if kept.name == "rope_freqs.weight":
                writer.add_tensor(kept.name, kept.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Path(file.name).read_bytes()


def _as_stored(name: str, tensor: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    if config.architecture == "llama" and ".q_proj." in name:
        return interleaved(tensor, config.num_heads)
    if config.architecture == "llama" and ".k_proj." in name:
        return interleaved(tensor, config.num_kv_heads)
    return tensor


def _add(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype == torch.float32:
        writer.add_tensor(name, tensor.numpy())
    else:
        writer.add_tensor(name, tensor.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
