"""The arithmetic of adapters: every row of a step through its own, however many there are. Knows no requests or files.

The factors of all adapters in slots lie stacked, and a step's rows are gathered by adapter: two batched products for
each of the base's, whatever the number of adapters. A row is multiplied with its own adapter's numbers only, so that no
other's can reach it. One product with all factors, its foreign ranks masked out, is no faster (on one core, 30 layers
of 16 rows and 8 adapters, measured by themselves: 22 ms against 18) and lets an overflow pass from row to row.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from inference.engine.adapters import PRODUCTS, LoadedAdapter, module_shapes

_Factors = dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]


def _padded_rank(rank: int) -> int:
    """Adapters of similar rank are stacked together, with zeros: at most half of what is read is in vain."""
    return max(8, 1 << (rank - 1).bit_length())


class _RankStack:
    """Adapters of similar rank, by (layer, product).

    A^T is [adapters, inputs, modules * rank], and B^T [adapters, modules * rank, outputs], which is zero where one
    module's ranks meet another's outputs. Both are contiguous the other way round: oneDNN takes half the time for B so.
    """

    def __init__(self, rank: int, adapters: list[LoadedAdapter]) -> None:
        self.rank, self.adapters = rank, adapters
        self.index = {adapter.digest: index for index, adapter in enumerate(adapters)}
        self.factors: _Factors = {}

    def stack(self, layer: int, product: str) -> None:
        parts = PRODUCTS[product]
        modules = [part for part in parts if any((layer, part) in a.factors for a in self.adapters)]
        if not modules:
            return
        shapes = module_shapes(self.adapters[0].config)
        ranks = len(modules) * self.rank
        like = next(iter(self.adapters[0].factors.values()))[0]
        a = like.new_zeros(len(self.adapters), ranks, shapes[parts[0]][1])
        b = like.new_zeros(len(self.adapters), sum(shapes[part][0] for part in parts), ranks)
        for index, adapter in enumerate(self.adapters):
            row = 0
            for part in parts:
                outputs = shapes[part][0]
                if (layer, part) in adapter.factors:
                    start = modules.index(part) * self.rank
                    columns = slice(start, start + adapter.rank)
                    a[index, columns], b[index, row : row + outputs, columns] = adapter.factors[layer, part]
                row += outputs
        self.factors[layer, product] = a.transpose(1, 2), b.transpose(1, 2)


class LoraStack:
    """The adapters of one set, stacked. Made piece by piece by `build`, unchanged and usable from then on."""

    def __init__(self, adapters: Iterable[LoadedAdapter]) -> None:
        by_rank: dict[int, list[LoadedAdapter]] = {}
        for adapter in adapters:
            by_rank.setdefault(_padded_rank(adapter.rank), []).append(adapter)
        self._stacks = [_RankStack(rank, alike) for rank, alike in by_rank.items()]
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
        rows: dict[str, list[int]] = {}
        first = 0
        for adapter, count in spans:
            if adapter is not None:
                rows.setdefault(adapter.digest, []).extend(range(first, first + count))
            first += count
        return AdaptedRows(
            [_group(stack, rows, first) for stack in self._stacks if not rows.keys().isdisjoint(stack.index)]
        )


@dataclass(frozen=True)
class _Group:
    """A step's rows whose adapters are in one stack."""

    factors: _Factors
    used: range  # of the stacked adapters
    gather: torch.Tensor  # rows of the step by adapter, as many for each: the shorter are filled up
    scatter: torch.Tensor  # which of those each adapted row is
    rows: torch.Tensor | None  # the adapted ones; None is all of them in order

    def product(self, a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What is to be added to the adapted rows."""
        if (
            len(self.used) == 1
        ):  # without the cost of a batched product, which is more than a row's arithmetic
            rows = x if self.rows is None else x.index_select(0, self.rows)
            return rows @ a[self.used.start] @ b[self.used.start]
        used = slice(self.used.start, self.used.stop)
        gathered = x.index_select(0, self.gather).view(len(self.used), -1, x.shape[1])
        return torch.bmm(torch.bmm(gathered, a[used]), b[used]).flatten(0, 1).index_select(0, self.scatter)


def _group(stack: _RankStack, rows: dict[str, list[int]], total: int) -> _Group:
    mine = {stack.index[digest]: found for digest, found in rows.items() if digest in stack.index}
    used = range(min(mine), max(mine) + 1)
    width = max(map(len, mine.values()))
    filler = next(iter(mine.values()))
    gather: list[int] = []
    place: dict[int, int] = {}
    for index in used:
        found = mine.get(index, [])
        place |= {row: len(gather) + n for n, row in enumerate(found)}
        gather += (found + (found or filler)[:1] * width)[:width]
    adapted = sorted(place)
    return _Group(
        stack.factors,
        used,
        torch.tensor(gather),
        torch.tensor([place[row] for row in adapted]),
        None if len(adapted) == total else torch.tensor(adapted),
    )


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
