"""What goes otherwise in the second of two processes that train: for `started`, which imports no tests."""

from __future__ import annotations

from typing import Any

import torch

from training.trainer import choices, objective


def short_of_memory(rank: int) -> None:
    if rank == 1:
        choices.free_memory = lambda device: 2**20  # a pass for nearly every example


def out_of_memory(rank: int) -> None:
    def greedy(*_: Any) -> torch.Tensor:
        raise MemoryError

    if rank == 1:
        objective.summed_cross_entropy = greedy  # type: ignore[assignment]


def not_a_number(rank: int) -> None:
    before = objective.summed_cross_entropy

    def broken(*arguments: Any) -> torch.Tensor:
        loss = before(*arguments)
        return loss * float("nan") if loss.requires_grad else loss

    if rank == 1:
        objective.summed_cross_entropy = broken  # type: ignore[assignment]
