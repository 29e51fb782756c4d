"""Memory for keys and values, in blocks of tokens handed out to sequences. Knows nothing of models or scheduling.

Each layer has one tensor for keys and one for values, [kv_heads, blocks, block_size * head_dim]: the blocks of many
sequences are gathered by one index_select whose result is already laid out for attention.
"""

from __future__ import annotations

import numpy as np
import torch

from inference.engine.config import ModelConfig

BLOCK_SIZE = 16  # tokens


class OutOfBlocks(Exception):
    """The cache is full; nothing was handed out."""


class KVCache:
    """Blocks 1.. are handed out; block 0 stays empty and fills up the tables of shorter sequences."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype) -> None:
        """`capacity` is in tokens and rounded up to whole blocks. Pages are taken from the system on first use."""
        self.kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.num_blocks = blocks_for(capacity) + 1
        self.capacity = (self.num_blocks - 1) * BLOCK_SIZE
        shape = (self.kv_heads, self.num_blocks, BLOCK_SIZE * self.head_dim)
        self.keys = [_lazy_zeros(shape, dtype) for _ in range(config.num_layers)]
        self.values = [_lazy_zeros(shape, dtype) for _ in range(config.num_layers)]
        # Last in, first out: blocks that were used before are used again before new memory is touched.
        self._free = list(range(self.num_blocks - 1, 0, -1))
        self._used: set[int] = set()

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def grow(self, table: list[int], tokens: int) -> None:
        """Extends a sequence's block table so that `tokens` fit. Raises OutOfBlocks, and then it is as before."""
        missing = blocks_for(tokens) - len(table)
        if missing > len(self._free):
            raise OutOfBlocks
        for _ in range(missing):
            block = self._free.pop()
            self._used.add(block)
            table.append(block)

    def release(self, table: list[int], *, poisoned: bool = False) -> None:
        """Takes a sequence's blocks back and empties its table; harmless when it is empty already.

        `poisoned` blocks may hold NaN, which even a masked-out position would spread: they are cleared.
        """
        if poisoned and table:
            blocks = torch.tensor(table)
            for tensor in (*self.keys, *self.values):
                tensor[:, blocks] = 0
        while table:
            block = table.pop()
            self._used.remove(block)
            self._free.append(block)

    def check_integrity(self, tables: list[list[int]]) -> None:
        """Raises AssertionError unless every block is free or in exactly one of the tables."""
        held = [block for table in tables for block in table]
        if sorted([*held, *self._free]) != list(range(1, self.num_blocks)) or set(held) != self._used:
            raise AssertionError(
                f"{len(held)} blocks held, {len(self._free)} free, of {self.num_blocks - 1}."
            )


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    # numpy asks the system for zeroed pages, which cost nothing until written; torch.zeros would write them all.
    count = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(dtype).view(shape)
