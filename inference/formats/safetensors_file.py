"""Reads the headers of safetensors files, single or sharded, and checks them. Knows nothing of torch.

The format is https://github.com/huggingface/safetensors#format. The sizes a header declares are checked against
the file before anybody allocates by them.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.formats.errors import ModelFileError
from inference.formats.json_file import read_json

_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_MAX_HEADER = 100 * 2**20


@dataclass(frozen=True)
class StoredTensor:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes of the file before it

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def find_weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder, as its index lists them. Raises ModelFileError where one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFileError(index, "has no weight_map.")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name:
                raise ModelFileError(index, f"names {name!r}, which is not a file of this folder.")
        files = [folder / name for name in names]
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        if not file.is_file():
            raise ModelFileError(file, f"is missing from {folder}.")
    return files


def read_headers(files: list[Path]) -> dict[str, StoredTensor]:
    """Every tensor of these files by name. Raises ModelFileError naming the file that is wrong."""
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _read_header(file).items():
            if name in tensors:
                raise ModelFileError(file, f"stores {name} a second time.")
            tensors[name] = tensor
    return tensors


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ModelFileError(
                    path, "is truncated or not a safetensors file: its header does not fit in it."
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(path, "is not a safetensors file: its header is no JSON.") from error
    if not isinstance(header, dict):
        raise ModelFileError(path, "is not a safetensors file: its header is no JSON object.")
    header.pop("__metadata__", None)
    return {name: _tensor(path, size, 8 + length, name, info) for name, info in header.items()}


def _tensor(path: Path, size: int, data: int, name: str, info: Any) -> StoredTensor:
    """`data` is where in the file of `size` bytes the data begins."""
    try:
        dtype, shape, (begin, end) = info["dtype"], tuple(info["shape"]), info["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise ModelFileError(path, f"describes {name} in a way that is not safetensors.") from error
    if not whole or dtype not in _WIDTHS:
        raise ModelFileError(path, f"stores {name} as {dtype} {shape}, which cannot be read.")
    tensor = StoredTensor(path, dtype, shape, data + begin)
    available = size - data
    if end > available:
        raise ModelFileError(
            path, f"is truncated: {name} ends at byte {end} of its data, the data at {available}."
        )
    if end - begin != tensor.elements * _WIDTHS[dtype]:
        raise ModelFileError(
            path, f"declares {name} as {dtype} {list(shape)}, but gives it {end - begin} bytes."
        )
    return tensor
