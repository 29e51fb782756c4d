"""`python -m inference.engine.compiler`: compiles a layer, for `compiled`. Knows nothing of weights.

Takes a CompilerJob as a line of JSON on stdin. It ends when stdin closes, so that it never outlives who wanted it.
"""

from __future__ import annotations

import os
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch._inductor
import torch._inductor.config
from torch import nn
from torch.export import Dim

from inference.engine.attention import PagedAttention, Span
from inference.engine.blocks import BLOCK_SIZE
from inference.engine.compiled import ADAPTERS, FORMS, PRODUCTS, CompilerJob, beside_products
from inference.engine.kv_cache import KVCache
from inference.engine.linear import Linear
from inference.engine.lora import MOST_MODULES, PIECE, gathered_product
from inference.engine.model import Layer
from inference.engine.rope import RotaryEmbedding

# Sizes are learnt from an example. One that happens to be a size of the model, too, would be taken to be always that.
_EXAMPLES = {"one": 1, "many": 11, "mixed": 11}
_BLOCKS, _MOST_BLOCKS = 13, 2**20


class _FusedAttention:
    """An `Attend` in operators that fuse: it reads blocks where they lie, and gathers nothing."""

    def __init__(
        self, blocks: torch.Tensor, slots: torch.Tensor, tables: torch.Tensor, mask: torch.Tensor
    ) -> None:
        self.blocks, self.slots, self.tables, self.mask = blocks, slots, tables, mask

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        tokens, kv_heads, dim = key.shape
        self.blocks.view(-1, 2 * kv_heads, dim)[self.slots] = torch.cat([key, value], dim=1)
        rows = self.blocks[self.tables].view(tokens, -1, 2 * kv_heads, dim).transpose(1, 2)
        keys, values = rows[:, :kv_heads, None].float(), rows[:, kv_heads:, None].float()
        folded = query.view(tokens, kv_heads, -1, 1, dim).float() * dim**-0.5
        scores = (folded * keys).sum(dim=-1) + self.mask
        weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        attended = (weights.unsqueeze(-1) * values).sum(dim=-2) / weights.sum(dim=-1, keepdim=True)
        return attended.to(query.dtype).view(query.shape)


class _AttentionElsewhere:
    """An `Attend` that the code calls back for."""

    def __init__(self, at: torch.Tensor) -> None:
        self.at = at

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        out: torch.Tensor = torch.ops.flywheel.attend(query, key, value, self.at)
        return out


class _Product(nn.Module):
    """Stands for a matrix product, which the code calls back for."""

    at: torch.Tensor

    def __init__(self, index: int, linear: Linear) -> None:
        super().__init__()
        self._index, self._outputs = index, linear.outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.flywheel.product(x, self.at, self._index, self._outputs)
        return y


class _Step(nn.Module):
    """A layer that takes its weights in like everything else, so that its code serves all layers."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self._products = [_Product(index, getattr(layer, name)) for index, name in enumerate(PRODUCTS)]
        for name, product in zip(PRODUCTS, self._products, strict=True):
            setattr(layer, name, product)
        self._layer = [layer]  # in a list, so that its weights are none of this module's
        self._names = list(beside_products(layer))

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        at: torch.Tensor,
        tensors: list[torch.Tensor],
        *cached: torch.Tensor,
    ) -> torch.Tensor:
        """`cached`: what _FusedAttention takes; nothing where attention is called back for."""
        for product in self._products:
            product.at = at
        attend = _FusedAttention(*cached) if cached else _AttentionElsewhere(at)
        given = (x, [(cos, sin), (cos, sin)], attend)
        named = dict(zip(self._names, tensors, strict=True))
        out: torch.Tensor = torch.func.functional_call(self._layer[0], named, given)
        return out


class _Zeros:
    """A `TensorSource`: what is stored does not matter to the code."""

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(shape)

    def rope_factors(self) -> torch.Tensor | None:
        return None


def compile_layer(job: CompilerJob) -> None:
    # In fp32 or bf16, as activations are: how weights are kept is nothing to the code.
    layer = Layer(job.config, 0, _Zeros(), "fp32" if job.kind == "fp32" else "bf16")
    layer.rotary = 0
    weights = [*beside_products(layer).values()]
    step = _Step(layer)
    folder = Path(job.folder)
    folder.mkdir()
    for form, (least, most) in FORMS.items():
        (x, cos, sin), cached = _example(job, _EXAMPLES[form])
        rows = {} if least == most else {0: Dim("rows", min=least, max=most)}
        blocks = Dim("blocks", min=1, max=_MOST_BLOCKS)
        shapes: list[Any] = [rows, rows, rows, {}, [None] * len(weights)]
        if form == "mixed":
            cached = ()
        else:
            shapes.append(({0: Dim("cache")}, rows, {**rows, 1: blocks}, {**rows, 3: BLOCK_SIZE * blocks}))
        given = (x, cos, sin, torch.tensor(0), weights, *cached)
        _compile(step, given, tuple(shapes), folder / form)
    _compile_adapters(Linear.activation_dtype(job.kind), folder / ADAPTERS)


class _GatheredProduct(nn.Module):
    forward = staticmethod(gathered_product)


def _compile_adapters(dtype: torch.dtype, folder: Path) -> None:
    """One form for all products, ranks and modules: the example is of sizes that no other is equal to."""
    rows, own, pieces, inputs = 11, 3, 9, 64
    outputs = [96 + 32 * n for n in range(MOST_MODULES)]
    given = (
        torch.zeros(rows, inputs, dtype=dtype),
        torch.zeros(rows, sum(outputs), dtype=dtype),
        torch.zeros(rows, own, dtype=torch.int64),
        torch.zeros(pieces, MOST_MODULES, PIECE, inputs, dtype=dtype),
        [torch.zeros(pieces, PIECE, count, dtype=dtype) for count in outputs],
    )
    auto = Dim.AUTO
    each = {0: auto, 1: auto}
    _compile(
        _GatheredProduct(),
        given,
        (each, each, each, each | {3: auto}, [{0: auto, 2: auto}] * MOST_MODULES),
        folder,
    )


def _compile(module: nn.Module, given: tuple[Any, ...], shapes: tuple[Any, ...], folder: Path) -> None:
    package = folder.with_suffix(".pt2")
    with torch.no_grad():
        exported = torch.export.export(module, given, dynamic_shapes=shapes, strict=False)
        torch._inductor.aoti_compile_and_package(exported, package_path=str(package))
    # torch unpacks a package with every load, into a temporary folder: in a container, code there may not be run.
    with zipfile.ZipFile(package) as packed:
        packed.extractall(folder.parent)  # below the package's own name
    package.unlink()


def _example(job: CompilerJob, sequences: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """What a layer is given for a step of so many sequences: for its rows, and of the cache."""
    cache = KVCache(job.config, sequences * _BLOCKS * BLOCK_SIZE, Linear.activation_dtype(job.kind), layers=1)
    tables = [[*range(_BLOCKS * n + 1, _BLOCKS * (n + 1) + 1)] for n in range(sequences)]
    spans = [Span(_BLOCKS * BLOCK_SIZE - 1, 1, table) for table in tables]
    attend = PagedAttention(cache, spans, together=True)
    (singles,) = attend.singles
    mask = next(iter(singles.masks.values()))
    cos, sin = RotaryEmbedding(job.config.rope, job.config.head_dim, None)(attend.positions)
    x = torch.zeros(sequences, job.config.hidden_size, dtype=cache.dtype)
    return (x, cos, sin), (cache.layers[0], attend.slots, singles.tables, mask)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=CompilerJob)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch._inductor.config.compile_threads = 1
    # As many threads as whoever runs the code has, not as this process has.
    torch._inductor.config.cpp.dynamic_threads = True
    compile_layer(job)
    os._exit(0)  # not held up by the thread that reads


if __name__ == "__main__":
    main()
