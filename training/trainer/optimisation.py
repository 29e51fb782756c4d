"""From gradients to new weights: optimizers, rate, clipping, penalties. Knows nothing of models or data."""

from __future__ import annotations

import math

import torch
from torch import nn

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

    def __init__(self, parameters: dict[str, nn.Parameter], spec: Spec, peak: float) -> None:
        self._parameters, self._spec = parameters, spec
        matrices = [p for p in parameters.values() if p.dim() > 1]
        others = [p for p in parameters.values() if p.dim() <= 1]
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
        """All gradients as one vector, which `step` uses: fp32."""
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                for p in self._parameters.values()
            ]
        )

    def step(self, gradients: torch.Tensor, rate: float) -> float:
        """One step along them; answers their norm before it was clipped."""
        norm = float(gradients.norm())
        limit = self._spec.max_grad_norm
        if limit and norm > limit:
            gradients *= limit / norm
        place = 0
        for p in self._parameters.values():
            p.grad = gradients[place : place + p.numel()].view_as(p)
            place += p.numel()
            if self._spec.l1:
                p.grad += self._spec.l1 * p.detach().sign()
        for group in self._torch.param_groups:
            group["lr"] = rate
        self._torch.step()
        self.forget()
        return norm

    def forget(self) -> None:
        """Gradients begun and not finished."""
        self._torch.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """By "parameter/what"."""
        return {
            f"{name}/{what}": value
            for name, p in self._parameters.items()
            for what, value in self._torch.state.get(p, {}).items()
            if isinstance(value, torch.Tensor)
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        for key, value in state.items():
            name, what = key.rsplit("/", 1)
            self._torch.state[self._parameters[name]][what] = value.clone()
