"""Reads the header of a GGUF file: its metadata and where its tensors lie. Knows nothing of torch or of tokens.

The layout is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The
header is read by us and not by the `gguf` package because a model file is not trusted: every count and length is
checked against what is left of the file before anything is allocated, and a vocabulary is read in milliseconds.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.formats.errors import ModelFileError

_MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_ENTRIES = 65_536  # metadata keys, and tensors: two orders of magnitude above the largest published model
_MAX_HEADER = 512 * 2**20

# ggml type number: (name, elements in a block, bytes of a block). Only those we can turn into numbers.
BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies. `shape` is as torch and numpy have it: the last dimension is contiguous."""

    name: str
    kind: int  # a key of BLOCKS
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    path: Path
    metadata: dict[str, Any] = field(repr=False)
    tensors: dict[str, GgufTensor] = field(repr=False)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def parameters(self) -> int:
        return sum(math.prod(t.shape) for t in self.tensors.values())


def read_gguf(path: Path) -> GgufFile:
    """The header of the file at `path`. Raises ModelFileError for anything wrong with it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read()
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}.") from error
    except ValueError as error:  # what mmap says of an empty file
        raise ModelFileError(path, "is empty.") from error


class _Reader:
    """A cursor over the mapped file; every read is checked against its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at, self.size = path, data, 0, len(data)

    def fail(self, reason: str) -> ModelFileError:
        return ModelFileError(self.path, reason)

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > min(self.size, _MAX_HEADER):
            raise self.fail("is truncated or not a GGUF file: its header reaches past its end.")
        chunk, self.at = self.data[self.at : end], end
        return chunk

    def scalar(self, kind: int) -> Any:
        code = _SCALARS[kind]
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def u32(self) -> int:
        return int(self.scalar(4))

    def u64(self) -> int:
        return int(self.scalar(10))

    def string(self) -> str:
        # Vocabularies may hold token pieces that are no UTF-8; they stay distinguishable this way.
        return self.take(self.u64()).decode("utf-8", errors="surrogateescape")

    def array(self) -> list[Any]:
        kind, count = self.u32(), self.u64()
        if kind == _STRING:
            if count * 8 > self.size - self.at:
                raise self.fail(f"declares an array of {count} strings, more than fit in it.")
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise self.fail(f"holds an array of unknown type {kind}.")
        code = _SCALARS[kind].removeprefix("<")
        data = self.take(count * struct.calcsize(f"<{code}"))
        return list(struct.unpack(f"<{count}{code}", data))

    def value(self) -> Any:
        kind = self.u32()
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise self.fail(f"holds a value of unknown type {kind}.")
        return self.scalar(kind)

    def read(self) -> GgufFile:
        if self.data[:4] != _MAGIC:
            raise self.fail("is not a GGUF file.")
        self.at = 4
        version = self.u32()
        if version not in (2, 3):
            raise self.fail(
                f"is GGUF version {version}, but only versions 2 and 3 (little-endian) can be read."
            )
        tensor_count, entry_count = self.u64(), self.u64()
        if tensor_count > _MAX_ENTRIES or entry_count > _MAX_ENTRIES:
            raise self.fail(f"declares {tensor_count} tensors and {entry_count} entries, which is absurd.")
        metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            key = self.string()
            metadata[key] = self.value()
        infos = [(self.string(), self.dimensions(), self.u32(), self.u64()) for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 2**20:
            raise self.fail(f"declares an alignment of {alignment}.")
        start = -(-self.at // alignment) * alignment
        tensors = {
            name: self.tensor(name, shape, kind, start + offset) for name, shape, kind, offset in infos
        }
        return GgufFile(self.path, metadata, tensors)

    def dimensions(self) -> tuple[int, ...]:
        count = self.u32()
        if not 1 <= count <= 4:
            raise self.fail(f"holds a tensor of {count} dimensions.")
        return tuple(reversed([self.u64() for _ in range(count)]))

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        if kind not in BLOCKS:
            known = ", ".join(label for label, _, _ in BLOCKS.values())
            raise self.fail(f"stores {name} in ggml type {kind}, which is not one of {known}.")
        label, block, width = BLOCKS[kind]
        elements = math.prod(shape)
        nbytes = elements // block * width
        if elements == 0 or shape[-1] % block:
            raise self.fail(f"holds {name} of shape {shape}, which {label} cannot store.")
        if offset + nbytes > self.size:
            raise self.fail(f"is truncated: {name} ends at byte {offset + nbytes}, the file at {self.size}.")
        return GgufTensor(name, kind, shape, offset, nbytes)
