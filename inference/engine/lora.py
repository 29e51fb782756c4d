"""The arithmetic of adapters: every row of a step through its own, however many there are. Knows no requests or files.

The factors of all adapters in slots lie side by side, in pieces of a few ranks, and every row knows its own pieces. Few
rows are multiplied by just these, in compiled code: the best that can be put together from a library's products takes
more than twice as long (16 rows, 8 adapters of rank 16, two cores). Many rows of one adapter are plain products. So are
all rows where nothing is compiled, with all pieces: what is not a row's own is then set to zero, not multiplied by it,
so that not even an overflow reaches another's row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from inference.engine.adapter_file import PRODUCTS, module_shapes
from inference.engine.adapters import LoadedAdapter
from inference.engine.device import to_device

# Ranks that are read, or skipped, together.
PIECE = 8
# From here on two plain products are faster for the rows of one adapter.
_MANY_ROWS = 64
# So many B's the compiled code takes; where there are fewer, the others have no outputs.
MOST_MODULES = max(map(len, PRODUCTS.values()))

# A [pieces, modules, ranks, inputs], and B [pieces, ranks, outputs] of each module.
_Factors = tuple[torch.Tensor, list[torch.Tensor]]
# What `gathered_product` computes.
GatheredProduct = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor
]


def gathered_product(
    x: torch.Tensor, y: torch.Tensor, own: torch.Tensor, a: torch.Tensor, bs: list[torch.Tensor]
) -> torch.Tensor:
    """y [rows, outputs of all modules] with what the pieces `own` [rows, pieces of each] add to it, x [rows, inputs].

    a [pieces, modules, ranks, inputs]; bs [pieces, ranks, outputs] for each module. To be compiled: as it is, it copies
    every row's factors.
    """
    ranks = (x[:, None, None, None].float() * a[own].float()).sum(dim=-1)
    added = [(ranks[:, :, n, :, None] * b[own].float()).flatten(1, 2).sum(dim=1) for n, b in enumerate(bs)]
    return (y.float() + torch.cat(added, dim=1)).to(y.dtype)


@dataclass(frozen=True)
class _Gathered:
    """Rows that differ in their adapters."""

    product: GatheredProduct
    rows: torch.Tensor | None  # of the step; None is all of them
    own: torch.Tensor  # [rows, pieces of each]

    def add(self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, bs: list[torch.Tensor]) -> torch.Tensor:
        if self.rows is None:
            return self.product(x, y, self.own, a, bs)
        x, before = x.index_select(0, self.rows), y.index_select(0, self.rows)
        return y.index_copy_(0, self.rows, self.product(x, before, self.own, a, bs))


@dataclass(frozen=True)
class _Plain:
    """Rows that are multiplied by all of some pieces."""

    rows: slice  # of the step
    pieces: slice
    foreign: torch.Tensor | None  # [rows, pieces, 1, 1]: which of these are not the row's own

    def add(self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, bs: list[torch.Tensor]) -> torch.Tensor:
        a = a[self.pieces]
        pieces, modules, _, inputs = a.shape
        ranks = F.linear(x[self.rows], a.view(-1, inputs)).view(-1, pieces, modules, PIECE)
        if self.foreign is not None:
            ranks.masked_fill_(self.foreign, 0)
        column = 0
        for n, b in enumerate(bs[:modules]):
            end = column + b.shape[2]
            y[self.rows, column:end].addmm_(ranks[:, :, n].flatten(1), b[self.pieces].flatten(0, 1))
            column = end
        return y


class AdaptedRows:
    """An `Adapt` for one step."""

    def __init__(self, factors: dict[tuple[int, str], _Factors], parts: list[_Gathered | _Plain]) -> None:
        self._factors, self._parts = factors, parts

    def __call__(self, layer: int, product: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """May change `y`."""
        factors = self._factors.get((layer, product))
        if factors is not None:
            for part in self._parts:
                y = part.add(x, y, *factors)
        return y


class LoraStack:
    """The adapters of one set, side by side. Made bit by bit by `build`, unchanged and usable from then on."""

    def __init__(self, adapters: Iterable[LoadedAdapter], device: torch.device) -> None:
        self._adapters, self._device = [*adapters], device
        self._pieces: dict[str, range] = {}
        self._count = 1  # the first is zero, for whoever has fewer than others
        for adapter in self._adapters:
            end = self._count + -(-adapter.rank // PIECE)
            self._pieces[adapter.digest], self._count = range(self._count, end), end
        self.digests = frozenset(self._pieces)
        self._factors: dict[tuple[int, str], _Factors] = {}
        layers = range(self._adapters[0].config.num_layers)
        self._missing = [(layer, product) for layer in layers for product in PRODUCTS]

    def build(self, until: float) -> bool:
        """Goes on until it is whole, which it answers, or the clock (time.monotonic) says `until`."""
        while self._missing:
            self._stack(*self._missing.pop())
            if time.monotonic() >= until:
                break
        return not self._missing

    def _stack(self, layer: int, product: str) -> None:
        modules = PRODUCTS[product]
        if not any((layer, module) in adapter.factors for adapter in self._adapters for module in modules):
            return
        shapes = module_shapes(self._adapters[0].config)
        like = next(iter(self._adapters[0].factors.values()))[0]
        a = like.new_zeros(self._count, len(modules), PIECE, shapes[modules[0]][1], device=self._device)
        bs = [
            like.new_zeros(self._count, PIECE, shapes[module][0], device=self._device) for module in modules
        ]
        for adapter in self._adapters:
            own = self._pieces[adapter.digest]
            at, filled = slice(own.start, own.stop), (0, 0, 0, len(own) * PIECE - adapter.rank)
            for n, module in enumerate(modules):
                if (layer, module) in adapter.factors:
                    mine = adapter.factors[layer, module]
                    a[at, n] = F.pad(mine[0], filled).reshape(len(own), PIECE, -1)
                    bs[n][at] = F.pad(mine[1].t(), filled).reshape(len(own), PIECE, -1)
        bs += [like.new_zeros(self._count, PIECE, 0, device=self._device)] * (MOST_MODULES - len(modules))
        self._factors[layer, product] = a, bs

    def rows(
        self, spans: list[tuple[LoadedAdapter | None, int]], gathered: GatheredProduct | None
    ) -> AdaptedRows:
        """For one step: the adapter and the number of rows of one sequence after the other."""
        parts: list[_Gathered | _Plain] = []
        few: dict[int, range] = {}  # the pieces of each row
        row = 0
        for adapter, count in spans:
            if adapter is not None:
                own = self._pieces[adapter.digest]
                if gathered is not None and count >= _MANY_ROWS:
                    parts.append(_Plain(slice(row, row + count), slice(own.start, own.stop), None))
                else:
                    few.update(dict.fromkeys(range(row, row + count), own))
            row += count
        if gathered is None:
            foreign = torch.ones(row, self._count, 1, 1, dtype=torch.bool)
            for at, own in few.items():
                foreign[at, own.start : own.stop] = False
            parts.append(_Plain(slice(None), slice(None), to_device(foreign, self._device)))
        elif few:
            most = max(map(len, few.values()))
            padded = torch.tensor([[*own, *[0] * (most - len(own))] for own in few.values()])
            parts.append(_Gathered(gathered, None if len(few) == row else torch.tensor([*few]), padded))
        return AdaptedRows(self._factors, parts)
