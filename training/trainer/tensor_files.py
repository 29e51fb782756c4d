"""Safetensors files of tensors that are large: written and read one after the other. Knows nothing of training.

What is saved is hundreds of megabytes of a small model already, several times that with what an optimizer keeps, and
must be on the disk within seconds where a person cancels: so it is never copied into one piece of memory first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

Piece = bytes | memoryview
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}


def pieces(tensors: dict[str, torch.Tensor]) -> Iterator[Piece]:
    """A file's content. The tensors are on the CPU, and stay as they are until all has been taken."""
    header, place = {}, 0
    for name, tensor in tensors.items():
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]
        }  # fmt: skip
        place = end
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    yield len(said).to_bytes(8, "little") + said
    for tensor in tensors.values():
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def stored(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """A file's tensors, one in memory at a time."""
    with safe_open(str(file), framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - no dict
            yield name, opened.get_tensor(name)
