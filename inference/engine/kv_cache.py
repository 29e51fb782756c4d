"""Memory for keys and values, in blocks of tokens. Knows nothing of models, nor of who holds which block.

Each layer has one tensor, [blocks, block_size, 2 * kv_heads, head_dim], keys before values: a block is one row, so that
the blocks of many sequences are gathered by one index_select that copies long runs.
"""

from __future__ import annotations

import contextlib
import math
import mmap

import numpy as np
import torch

from inference.engine.blocks import BLOCK_SIZE, blocks_for
from inference.engine.config import ModelConfig
from inference.engine.device import CPU, to_device


class KVCache:
    """Block 0 stays empty and fills up the tables of shorter sequences."""

    def __init__(
        self,
        config: ModelConfig,
        capacity: int,
        dtype: torch.dtype,
        *,
        layers: int | None = None,
        device: torch.device = CPU,
    ) -> None:
        """`capacity` is in tokens and rounded up to whole blocks. Pages are taken from the system on first use."""
        self.kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.layer_windows = config.layer_windows
        self.num_blocks = blocks_for(capacity) + 1
        self.capacity = (self.num_blocks - 1) * BLOCK_SIZE
        shape = (
            layers or config.num_layers, self.num_blocks, BLOCK_SIZE, 2 * self.kv_heads, self.head_dim
        )  # fmt: skip
        self.layers = [*_zeros(shape, dtype, device)]
        self._rows = [layer.view(-1, 2 * self.kv_heads, self.head_dim) for layer in self.layers]

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].dtype

    @property
    def device(self) -> torch.device:
        return self.layers[0].device

    def write(self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """key and value [tokens, kv_heads, head_dim] to the places of these tokens, [tokens]."""
        self._rows[layer].index_copy_(0, slots, torch.cat([key, value], dim=1))

    def gather(self, layer: int, tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of block tables [sequences, blocks]: each [sequences, kv_heads, keys, head_dim], a view."""
        rows = self.layers[layer].index_select(0, tables.flatten())
        both = rows.view(tables.shape[0], -1, 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        return both[:, : self.kv_heads], both[:, self.kv_heads :]

    def gather_rows(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of these blocks, one after the other: each [tokens, kv_heads, head_dim], a view."""
        rows = self.layers[layer].index_select(0, blocks).view(-1, 2 * self.kv_heads, self.head_dim)
        return rows[:, : self.kv_heads], rows[:, self.kv_heads :]

    def clear(self, blocks: list[int]) -> None:
        """What may hold NaN, which even a masked-out position would spread."""
        at = to_device(blocks, self.device, torch.long)
        for layer in self.layers:
            layer.index_fill_(0, at, 0)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # Zeroed pages cost nothing until they are used; torch.zeros would write them all. Large ones, where there are such:
    # taking small ones as prompts come in was a fortieth of reading them.
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.from_numpy(np.frombuffer(pages, dtype=np.uint8)).view(dtype).view(shape)
