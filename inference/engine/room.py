"""Whether there is memory for one more model beside those that are there. Knows nothing of these, or of its files."""

from __future__ import annotations

import psutil
import torch

from inference.engine.device import resolve_device
from inference.engine.interface import NotEnoughMemory
from inference.engine.loaded_model import resolve_dtype

_WIDTHS = {"fp32": 4, "bf16": 2, "int8": 2}  # bytes of a weight; what becomes int8 begins as bf16
_BESIDE_WEIGHTS = 1.25  # what is laid out once more, and matrices that are taken apart and put together
_WORKING = 400 * 2**20  # keys and values of some conversations, and what steps use


def check_room(name: str, parameters: int, *, dtype: str, device: str) -> None:
    """Raises NotEnoughMemory, in a sentence with both numbers, before anything is read; and ModelLoadError."""
    where = resolve_device(device)
    needed = int(parameters * _WIDTHS[resolve_dtype(dtype, where)] * _BESIDE_WEIGHTS) + _WORKING
    if where.type == "cuda":
        free, what = torch.cuda.mem_get_info(where)[0], "GPU"
    else:
        free, what = psutil.virtual_memory().available, "machine"
    if needed > free:
        raise NotEnoughMemory(
            f"{name} needs {needed / 1e9:.1f} GB of memory, and this {what} has {free / 1e9:.1f} GB free."
        )
