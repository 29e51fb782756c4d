"""Turns a model's products into int8 while it is loaded, one layer after the other. Knows nothing of model files.

How far the inputs of each product reach is seen on a short text, which goes through the layers in bf16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inference.engine.attention import PagedAttention, Span
from inference.engine.blocks import blocks_for
from inference.engine.config import ModelConfig
from inference.engine.kv_cache import KVCache
from inference.engine.linear import Linear

# A little of everything: what counts is which inputs reach far, and these are nearly the same for any text.
CALIBRATION_TEXT = """\
The travellers came to a town between two rivers, where the bridges were old and the people were kind. They \
asked for a room, and were told a story about the mayor, his three daughters, and a clock that \
had not been wound since the flood of 1887.

def mean(values: list[float]) -> float:
    # the arithmetic mean
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)

Q: How do I reset my password?
A: Open Settings > Account, choose "Reset password" and follow the link we send to your e-mail address. \
It is valid for 30 minutes.

| item | price | qty |
|------|-------|-----|
| pen  | $1.20 | 12  |

{"name": "Ada", "born": 1815, "tags": ["math", "engine"], "active": true}

La bibliothèque ferme à dix-huit heures. Das Fenster ist offen, und draußen regnet es. El tren sale a las 7:45.

1. Boil the water. 2. Add two spoons of salt. 3. Cook the pasta for nine minutes, then drain it and serve it hot.

In 2019 the committee found that E = mc^2, x_1 + x_2 >= 0.05, and 12 * 34 = 408. SELECT name FROM users WHERE id = 7;
"""


class Calibration:
    """The text's hidden states on their way through the model; no more than one layer is in bf16 at a time."""

    def __init__(
        self, config: ModelConfig, hidden: torch.Tensor, turns: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """hidden bf16 [tokens, hidden_size]; `turns` as Layer takes them."""
        self._hidden, self._turns = hidden, turns
        tokens = hidden.shape[0]
        blocks = list(range(1, blocks_for(tokens) + 1))
        cache = KVCache(config, tokens, hidden.dtype, device=hidden.device)
        self._attend = PagedAttention(cache, [Span(0, tokens, blocks)])

    def quantise_layer(self, layer: nn.Module) -> None:
        self._hidden = _quantise(layer, self._hidden, self._turns, self._attend)

    def quantise_head(self, norm: nn.Module, head: Linear) -> None:
        _quantise(head, norm(self._hidden))


def _quantise(module: nn.Module, *inputs: Any) -> torch.Tensor:
    """Runs the module in bf16, then turns each product in it into int8, by what it was given."""
    largest: dict[Linear, torch.Tensor] = {}

    def note(linear: Linear, inputs: tuple[torch.Tensor]) -> None:
        largest[linear] = inputs[0].abs().amax(dim=0)

    linears = [part for part in module.modules() if isinstance(part, Linear)]
    hooks = [linear.register_forward_pre_hook(note) for linear in linears]
    output: torch.Tensor = module(*inputs)
    for hook in hooks:
        hook.remove()
    for linear in linears:
        linear.quantise(largest[linear])
    return output
