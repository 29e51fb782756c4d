"""The arithmetic of adapters: every row of a step through its own, however many there are. Knows no requests or files.

The factors of all adapters in slots lie side by side: one product gives every row the ranks of all of them, those of
others are set to zero, and a second product adds what is left to the base's: two products whatever the number of
adapters, where one for each adapter, or a batched one, takes twice as long (measured on two cores with 16 rows and 8
adapters of rank 16). Set to zero, not multiplied by it: not even an overflow reaches another's row.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from inference.engine.adapters import PRODUCTS, LoadedAdapter, module_shapes
from inference.engine.device import to_device
from inference.engine.linear import Linear

_Factors = dict[tuple[int, str], tuple[Linear, Linear]]


def _padded_rank(rank: int) -> int:
    """Adapters of similar rank are stacked together, with zeros: at most half of what is read is in vain."""
    return max(8, 1 << (rank - 1).bit_length())


class _RankStack:
    """Adapters of similar rank, by (layer, product): A [adapters * modules * rank, inputs] and B [outputs, the same],
    which is zero where one module's ranks meet another's outputs."""

    def __init__(self, rank: int, adapters: list[LoadedAdapter], device: torch.device) -> None:
        self.rank, self.adapters, self.device = rank, adapters, device
        self.index = {adapter.digest: index for index, adapter in enumerate(adapters)}
        self.factors: _Factors = {}

    def stack(self, layer: int, product: str) -> None:
        parts = PRODUCTS[product]
        modules = [part for part in parts if any((layer, part) in a.factors for a in self.adapters)]
        if not modules:
            return
        shapes = module_shapes(self.adapters[0].config)
        like = next(iter(self.adapters[0].factors.values()))[0]
        ranks = (len(self.adapters), len(modules), self.rank)
        a = like.new_zeros(*ranks, shapes[parts[0]][1], device=self.device)
        b = like.new_zeros(sum(shapes[part][0] for part in parts), *ranks, device=self.device)
        for index, adapter in enumerate(self.adapters):
            row = 0
            for part in parts:
                outputs = shapes[part][0]
                if (layer, part) in adapter.factors:
                    at = index, modules.index(part), slice(adapter.rank)
                    a[at], b[row : row + outputs, *at] = adapter.factors[layer, part]
                row += outputs
        kind = "fp32" if like.dtype == torch.float32 else "bf16"
        self.factors[layer, product] = (
            Linear(a.flatten(0, 2), None, kind, keeps_int4=False),
            Linear(b.flatten(1), None, kind, keeps_int4=False),
        )


class LoraStack:
    """The adapters of one set, stacked. Made piece by piece by `build`, unchanged and usable from then on."""

    def __init__(self, adapters: Iterable[LoadedAdapter], device: torch.device) -> None:
        by_rank: dict[int, list[LoadedAdapter]] = {}
        for adapter in adapters:
            by_rank.setdefault(_padded_rank(adapter.rank), []).append(adapter)
        self._stacks = [_RankStack(rank, alike, device) for rank, alike in by_rank.items()]
        self.digests = frozenset(digest for stack in self._stacks for digest in stack.index)
        layers = range(self._stacks[0].adapters[0].config.num_layers)
        self._missing = [
            (stack, layer, product) for stack in self._stacks for layer in layers for product in PRODUCTS
        ]

    def build(self, until: float) -> bool:
        """Goes on until it is whole, which it answers, or the clock (time.monotonic) says `until`."""
        while self._missing:
            stack, layer, product = self._missing.pop()
            stack.stack(layer, product)
            if time.monotonic() >= until:
                break
        return not self._missing

    def rows(self, spans: list[tuple[LoadedAdapter | None, int]]) -> AdaptedRows:
        """For one step: the adapter and the number of rows of one sequence after the other."""
        digests = [adapter.digest if adapter else "" for adapter, count in spans for _ in range(count)]
        return AdaptedRows([group for stack in self._stacks if (group := _group(stack, digests))])


@dataclass(frozen=True)
class _Group:
    """A step's rows whose adapters are in one stack."""

    factors: _Factors
    rows: torch.Tensor | None  # of the step; None is all of them
    foreign: (
        torch.Tensor | None
    )  # [rows, adapters, 1]: true where the adapter is not the row's; None: it always is

    def product(self, a: Linear, b: Linear, x: torch.Tensor) -> torch.Tensor:
        """What is to be added to the rows."""
        ranks = a(x if self.rows is None else x.index_select(0, self.rows))
        if self.foreign is not None:
            ranks.view(*self.foreign.shape[:2], -1).masked_fill_(self.foreign, 0)
        return b(ranks)


def _group(stack: _RankStack, digests: list[str]) -> _Group | None:
    mine = [(row, stack.index[digest]) for row, digest in enumerate(digests) if digest in stack.index]
    if not mine:
        return None
    rows = None if len(mine) == len(digests) else to_device([row for row, _ in mine], stack.device)
    if len(stack.adapters) == 1:
        return _Group(stack.factors, rows, None)
    own = to_device([adapter for _, adapter in mine], stack.device).unsqueeze(1)
    foreign = own != torch.arange(len(stack.adapters), device=stack.device)
    return _Group(stack.factors, rows, foreign.unsqueeze(2))


class AdaptedRows:
    """An `Adapt` for one step."""

    def __init__(self, groups: list[_Group]) -> None:
        self._groups = groups

    def __call__(self, layer: int, product: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Adds to `y` in place."""
        for group in self._groups:
            factors = group.factors.get((layer, product))
            if factors is None:
                continue
            added = group.product(*factors, x)
            if group.rows is None:
                y.add_(added)
            else:
                y.index_copy_(0, group.rows, added.add_(y.index_select(0, group.rows)))
        return y
