"""Reads a PEFT LoRA adapter and checks it against the model it is for. Knows nothing of requests or of who else runs.

The folder is what `PeftModel.save_pretrained` writes: adapter_config.json and adapter_model.safetensors. Reading is
slow and touches nothing of an engine, so it may run in any thread. LoRA is arXiv:2106.09685, rsLoRA arXiv:2312.03732.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from inference.engine.adapter_file import AdapterFile, open_adapter, stored_name
from inference.engine.config import ModelConfig
from inference.engine.interface import InvalidAdapter
from inference.engine.pace import Pace
from inference.formats.errors import ModelFileError
from inference.formats.safetensors_file import StoredTensor

_PIECE = 2**20  # bytes read at once
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter in host memory, in the engine's precision.

    `factors` are A [rank, inputs] and B [outputs, rank] by (layer, module), with the scaling already in B; modules of a
    smaller rank than the adapter's are filled up with zeros.
    """

    digest: str  # SHA-256 of its configuration and tensors
    config: ModelConfig  # of the model it was checked against
    rank: int
    factors: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]


def read_adapter(folder: Path, config: ModelConfig, dtype: torch.dtype, max_rank: int) -> LoadedAdapter:
    """The adapter in `folder`, for a model of this shape. Raises InvalidAdapter, which says what is wrong."""
    try:
        file = open_adapter(folder, config, max_rank)
        data, digest = _read(file, pace := Pace())
        rank = max(file.settings.rank(module) for module in file.modules.values())
        factors = {}
        for key, module in file.modules.items():
            factors[key] = _factors(file, data, module, rank, dtype)
            pace.rest()
    except ModelFileError as error:
        raise InvalidAdapter(str(error)) from error
    return LoadedAdapter(digest, config, rank, factors)


def _read(file: AdapterFile, pace: Pace) -> tuple[torch.Tensor, str]:
    """The bytes of the file, and the digest of these and of the configuration.

    What is checked, named and used is this one reading. The file is not mapped: one cut short meanwhile is an
    error, not a signal.
    """
    digest = file.begun_digest()
    try:
        with file.weights.open("rb") as opened:
            data = torch.empty(os.fstat(opened.fileno()).st_size, dtype=torch.uint8)
            for piece in data.split(_PIECE):
                if opened.readinto(piece.numpy()) != len(piece):
                    raise ModelFileError(file.weights, "was changed while it was read.")
                digest.update(piece.numpy())
                pace.rest()
    except OSError as error:
        raise ModelFileError(file.weights, f"cannot be read: {error.strerror}.") from error
    return data, digest.hexdigest()


def _factors(
    file: AdapterFile, data: torch.Tensor, module: str, rank: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    a = _tensor(file.stored[stored_name(module, "A")], data)
    b = _tensor(file.stored[stored_name(module, "B")], data) * file.settings.scaling(module)
    missing = rank - a.shape[0]
    pair = F.pad(a, (0, 0, 0, missing)).to(dtype), F.pad(b, (0, missing)).to(dtype)
    if not all(math.isfinite(float(factor.abs().amax())) for factor in pair):  # NaN is the largest of all
        raise ModelFileError(file.weights, f"holds numbers in {module} that are not finite.")
    return pair


def _tensor(stored: StoredTensor, data: torch.Tensor) -> torch.Tensor:
    dtype = _DTYPES[stored.dtype]
    values = data[stored.start : stored.start + stored.elements * dtype.itemsize]
    if len(values) != stored.elements * dtype.itemsize or stored.start % dtype.itemsize:
        raise ModelFileError(stored.file, "was changed while it was read, or its tensors lie askew.")
    return values.view(dtype).view(stored.shape).float()
