"""From gradients to new weights: optimizers, rate, clipping, penalties. Knows nothing of models or data.

Where weights are shared out over processes, each steps its own part of them; a gradient's norm is of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from training.trainer.processes import Processes
from training.trainer.shards import as_shard_of, is_shared_out, own_part, part_of
from training.trainer.spec import Spec


def rate_at(step: int, steps: int, spec: Spec, peak: float) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up, then as the schedule says, to 0 after the last."""
    warmup = math.ceil(spec.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if spec.schedule == "constant":
        return peak
    progress = (step - warmup) / max(steps - warmup, 1)
    return (
        peak * (1 - progress) if spec.schedule == "linear" else peak * (1 + math.cos(math.pi * progress)) / 2
    )


class Optimizer:
    """torch's, over parameters by name; biases and norms are not decayed."""

    def __init__(
        self, parameters: dict[str, nn.Parameter], spec: Spec, peak: float, processes: Processes
    ) -> None:
        self._spec, self._processes = spec, processes
        shards = {name: p for name, p in parameters.items() if is_shared_out(p)}
        # Those that are shared out come first, in the vector of gradients as well.
        self._learnt = shards | parameters
        self._parts = {name: own_part(p) for name, p in self._learnt.items()}  # what is stepped here
        self._shared_out = sum(self._parts[name].numel() for name in shards)
        matrices = [p for p in self._parts.values() if p.dim() > 1]
        others = [p for p in self._parts.values() if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": spec.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._torch: torch.optim.Optimizer
        if spec.optimizer == "sgd":
            self._torch = torch.optim.SGD(groups, lr=peak, momentum=spec.momentum, fused=True)
        elif spec.optimizer == "adam":
            self._torch = torch.optim.Adam(groups, lr=peak, fused=True)
        else:
            self._torch = torch.optim.AdamW(groups, lr=peak, fused=True)

    def gradients(self) -> torch.Tensor:
        """The sums of all processes' gradients as one vector, which `step` uses: fp32. Every process has to ask.

        Of what is shared out they are of this process's part, and are summed already.
        """
        found = torch.cat(
            [
                torch.zeros_like(part).flatten() if p.grad is None else own_part(p.grad).flatten()
                for p, part in zip(self._learnt.values(), self._parts.values(), strict=True)
            ]
        )
        self._processes.add_up(found[self._shared_out :])
        return found

    def step(self, gradients: torch.Tensor, rate: float) -> float:
        """One step along them; answers their norm before it was clipped."""
        norm = self._norm(gradients)
        limit = self._spec.max_grad_norm
        if limit and norm > limit:
            gradients *= limit / norm
        place = 0
        for p in self._parts.values():
            p.grad = gradients[place : place + p.numel()].view_as(p)
            place += p.numel()
            if self._spec.l1:
                p.grad += self._spec.l1 * p.detach().sign()
        for group in self._torch.param_groups:
            group["lr"] = rate
        self._torch.step()
        self.forget()
        return norm

    def _norm(self, gradients: torch.Tensor) -> float:
        if not self._shared_out:
            return float(gradients.norm())
        parts, whole = gradients[: self._shared_out], gradients[self._shared_out :]
        return math.sqrt(self._processes.total(float(parts.norm()) ** 2) + float(whole.norm()) ** 2)

    def forget(self) -> None:
        """Gradients begun and not finished."""
        for p in (*self._learnt.values(), *self._parts.values()):
            p.grad = None

    def state(self) -> dict[str, torch.Tensor]:
        """By "parameter/what", shared out as the parameter is; the number of steps is not."""
        return {
            f"{name}/{what}": as_shard_of(self._learnt[name], value) if value.dim() else value
            for name, part in self._parts.items()
            for what, value in self._torch.state.get(part, {}).items()
            if isinstance(value, torch.Tensor)
        }

    def restore(self, state: Iterable[tuple[str, torch.Tensor]]) -> None:
        """`state` has whole tensors, however many processes there were."""
        for key, value in state:
            name, what = key.rsplit("/", 1)
            kept = part_of(self._learnt[name], value) if value.dim() else value
            self._torch.state[self._parts[name]][what] = kept.to(self._parts[name].device, copy=True)
