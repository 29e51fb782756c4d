"""LoRA while it is learnt: two small factors beside every chosen matrix, as an `Adapt` of the engine's model.

Follows arXiv:2106.09685 and PEFT's conventions: the product is scaled by alpha / r, and zero at first.
Knows nothing of files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from inference.engine.adapter_file import PRODUCTS, module_shapes
from inference.engine.config import ModelConfig
from training.trainer.spec import Lora


class LoraAdapter(nn.Module):
    """The factors of all layers, in fp32; they compute in the precision of what they are given."""

    def __init__(self, config: ModelConfig, lora: Lora, seed: int) -> None:
        super().__init__()
        self.scaling = lora.alpha / (math.sqrt(lora.r) if lora.rslora else lora.r)
        self._dropout = lora.dropout
        shapes = module_shapes(config)
        self._rows = {name: [shapes[part][0] for part in parts] for name, parts in PRODUCTS.items()}
        random = torch.Generator().manual_seed(seed)
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for layer in range(config.num_layers):
            for module in lora.targets:
                outputs, inputs = shapes[module]
                a, b = _factors(lora, outputs, inputs, random)
                self.a[f"{layer}_{module}"], self.b[f"{layer}_{module}"] = nn.Parameter(a), nn.Parameter(b)

    def forward(self, layer: int, product: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """See inference.engine.model.Adapt. Modules of one product share its input, so their factors are stacked."""
        names = [f"{layer}_{module}" for module in PRODUCTS[product]]
        adapted = [name for name in names if name in self.a]
        if not adapted:
            return y
        a = torch.cat([self.a[name] for name in adapted]).to(y.dtype)
        ranks = F.linear(F.dropout(x.to(y.dtype), self._dropout, training=self.training), a)
        blocks = [
            self.b[name] if name in self.b else ranks.new_zeros(rows, 0, dtype=torch.float32)
            for name, rows in zip(names, self._rows[product], strict=True)
        ]
        b = (torch.block_diag(*blocks) * self.scaling).to(y.dtype)
        return torch.addmm(y, ranks, b.t())


def _factors(
    lora: Lora, outputs: int, inputs: int, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [r, inputs] and B [outputs, r], whose product is zero: the base answers as it is."""
    rank = lora.r

    def normal(*shape: int) -> torch.Tensor:
        return torch.empty(shape).normal_(generator=random)

    if lora.initialisation == "orthogonal":
        # Half of an orthonormal basis each, mixed at random and small, as PEFT does: B A has nothing in common.
        basis = torch.linalg.qr(normal(rank, rank)).Q
        a = normal(inputs, rank // 2) @ basis[0::2]
        b = normal(outputs, rank // 2) @ basis[1::2]
        return a.t().contiguous() / 10, b / 10
    if lora.initialisation == "gaussian":
        return normal(rank, inputs) / rank, torch.zeros(outputs, rank)
    bound = 1 / math.sqrt(inputs)  # kaiming_uniform with a = sqrt(5)
    a = torch.empty(rank, inputs).uniform_(-bound, bound, generator=random)
    return a, torch.zeros(outputs, rank)
