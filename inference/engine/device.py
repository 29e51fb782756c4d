"""Where tensors are, and how they get there from the host. Knows nothing of models or requests."""

from __future__ import annotations

import logging
from typing import Any

import torch

from inference.engine.interface import ModelLoadError

logger = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
CPU = torch.device("cpu")


def resolve_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one that works, else the CPU. Raises ModelLoadError."""
    if device not in DEVICES:
        raise ModelLoadError(f"The device {device!r} is not one of {', '.join(DEVICES)}.")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        built = "finds none" if torch.version.cuda else "is built without CUDA"
        raise ModelLoadError(f"There is no GPU to compute on: torch {built}.")
    try:
        torch.ones(1, device="cuda").sum().item()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if device == "cuda":
            raise ModelLoadError(f"The GPU cannot be computed on: {reason}") from error
        logger.warning("The GPU is left alone and the CPU used: %s", reason)
        return CPU
    return torch.device("cuda", torch.cuda.current_device())


def multiplies_bf16(device: torch.device) -> bool:
    """Whether this GPU does so in hardware, as Ampere and what came after it do."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def to_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of the host, or one of these numbers, on the device. Waits for nothing that the device is doing."""
    tensor = values if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=dtype)
    return tensor if device.type == "cpu" else _copied(tensor, device)


def _copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    # Out of other memory the host would wait until it is copied.
    return tensor.pin_memory().to(device, non_blocking=True)
