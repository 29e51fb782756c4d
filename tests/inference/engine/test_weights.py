"""Tensors come out of a file as the numbers that were stored: exactly those of the library of their format."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from inference.engine.config_gguf import config_from_gguf
from inference.engine.weights import GgufSource
from inference.formats.gguf_file import BLOCKS, read_gguf
from tests.inference.tiny_models import save_gguf

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What the package can take apart, but not make.
K_FORMATS = ("Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize("kind", [label for label, _, _ in BLOCKS.values()])
def test_each_format_of_a_gguf_gives_the_packages_own_numbers(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(path, gguf.GGMLQuantizationType[kind], raw=kind in K_FORMATS)
    file = read_gguf(path)
    source = GgufSource(file, config_from_gguf(file))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, ours in (("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v")):
        theirs = stored[f"blk.0.{ours}.weight"]
        assert theirs.tensor_type.name == kind
        values = gguf.dequantize(theirs.data, theirs.tensor_type)
        tensor = source.get(f"model.layers.0.{name}.weight", tuple(values.shape))
        # Half precision stays what it is until the model says what it wants.
        assert tensor.dtype == PLAIN.get(kind, torch.float32)
        assert np.array_equal(tensor.float().numpy(), values)
        assert np.isfinite(values).all()
        assert len(np.unique(values)) > 8
