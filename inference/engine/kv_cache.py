"""Memory for keys and values, in blocks of tokens. Knows nothing of models, nor of who holds which block.

Each layer has one tensor for keys and one for values, [kv_heads, blocks, block_size * head_dim]: the blocks of many
sequences are gathered by one index_select whose result is already laid out for attention.
"""

from __future__ import annotations

import numpy as np
import torch

from inference.engine.blocks import BLOCK_SIZE, blocks_for
from inference.engine.config import ModelConfig


class KVCache:
    """Block 0 stays empty and fills up the tables of shorter sequences."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype) -> None:
        """`capacity` is in tokens and rounded up to whole blocks. Pages are taken from the system on first use."""
        self.kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.layer_windows = config.layer_windows
        self.num_blocks = blocks_for(capacity) + 1
        self.capacity = (self.num_blocks - 1) * BLOCK_SIZE
        shape = (self.kv_heads, self.num_blocks, BLOCK_SIZE * self.head_dim)
        self.keys = [_lazy_zeros(shape, dtype) for _ in range(config.num_layers)]
        self.values = [_lazy_zeros(shape, dtype) for _ in range(config.num_layers)]

    def clear(self, blocks: list[int]) -> None:
        """What may hold NaN, which even a masked-out position would spread."""
        at = torch.tensor(blocks, dtype=torch.long)
        for tensor in (*self.keys, *self.values):
            tensor[:, at] = 0


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    # numpy asks the system for zeroed pages, which cost nothing until written; torch.zeros would write them all.
    count = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(dtype).view(shape)
