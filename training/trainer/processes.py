"""The processes of one job, one or several: who this one is, and sums over all of them. Knows nothing of training."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from training.trainer.failures import TrainingFailure

# Of the memory of its GPU that is free when a job begins: an engine that answers beside it needs some for its steps.
_GPU_SHARE = 0.9
# In the environment of several: a file of theirs alone, in which each writes where it is found (`training.launcher`).
_MEETING = "FLYWHEEL_MEETING"
# While the first writes a checkpoint the others wait, for a large model longer than the ten minutes that NCCL allows.
# Of a process that ends they hear from torchrun.
_PATIENCE = timedelta(hours=2)


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


class Processes:
    """torchrun says in the environment who is who; without it there is one."""

    def __init__(self, device: torch.device) -> None:
        """Raises TrainingFailure `spec` where there are fewer GPUs than processes."""
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = count()
        self._device = device
        if self.world > 1:
            if device.type == "cuda":
                _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
            # Whoever calls torchrun by hand has it say where they meet.
            store = dist.FileStore(os.environ[_MEETING], self.world) if _MEETING in os.environ else None
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend, store=store, rank=self.rank, world_size=self.world, timeout=_PATIENCE
            )
        if device.type == "cuda":
            free, whole = torch.cuda.mem_get_info()
            torch.cuda.set_per_process_memory_fraction(_GPU_SHARE * free / whole)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """In place: the sum over all processes."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, value: float) -> float:
        if self.world == 1:
            return value
        return float(self.add_up(torch.tensor([value], dtype=torch.float64, device=self._device)))

    def all_of(self, numbers: list[int], most: int) -> list[int]:
        """Up to `most` of each process's, none of which is 0; every process has to ask."""
        table = torch.zeros(self.world, most, dtype=torch.int64, device=self._device)
        table[self.rank, : len(numbers)] = torch.tensor(numbers[:most])
        return [number for number in self.add_up(table).flatten().tolist() if number]

    def least(self, value: float) -> float:
        """Of what each of them has."""
        if self.world == 1:
            return value
        found = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return float(found)

    def any(self, flag: bool) -> bool:
        """Whether it is so for any of them; every process has to ask."""
        return self.total(float(flag)) > 0

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def close(self) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _take_gpu(number: int) -> None:
    """Each process of a machine has one of its own."""
    found = torch.cuda.device_count()
    if number >= found:
        raise TrainingFailure(
            "spec", f"This machine has {found} GPUs, and each process needs one of its own: start fewer."
        )
    torch.cuda.set_device(number)
