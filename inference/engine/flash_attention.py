"""Attention of one step on a GPU in bf16: one call of torch's varlen kernel for each layer. Knows nothing of layers.

The kernel would follow block tables itself, but only of blocks of 256 tokens, so ours are gathered first: see
docs/decisions/0007-attention-on-a-gpu.md.
"""

from __future__ import annotations

from itertools import accumulate

import torch

from inference.engine.attention import Span, positions_and_slots
from inference.engine.blocks import BLOCK_SIZE, blocks_for
from inference.engine.device import multiplies_bf16, to_device
from inference.engine.kv_cache import KVCache

_MOST_HEAD_DIM = 256


def is_for_flash(cache: KVCache) -> bool:
    """Whether the kernel takes such keys, here."""
    return (
        cache.device.type == "cuda"
        and cache.dtype == torch.bfloat16
        and cache.head_dim % 8 == 0
        and cache.head_dim <= _MOST_HEAD_DIM
        and torch.backends.cuda.is_flash_attention_available()
        and multiplies_bf16(cache.device)
    )


class FlashAttention:
    """An `Attend` for one step, for sequences of any mixture of lengths."""

    def __init__(
        self,
        cache: KVCache,
        positions: torch.Tensor,
        slots: torch.Tensor,
        blocks: torch.Tensor,
        bounds: tuple[torch.Tensor, torch.Tensor],
        lengths: torch.Tensor,
        longest: tuple[int, int],
    ) -> None:
        """positions, slots int64 [tokens]; blocks int64, of all sequences one after the other; `bounds` of each
        sequence among the tokens, and among the keys of these blocks, int32 [sequences + 1]; lengths int32 [sequences]:
        how many of its keys count; `longest`: at least the tokens, and the keys, of any."""
        self.cache, self.positions, self.slots = cache, positions, slots
        self._blocks, self._bounds, self._lengths, self._longest = blocks, bounds, lengths, longest

    @classmethod
    def over(cls, cache: KVCache, spans: list[Span]) -> FlashAttention:
        positions, slots = positions_and_slots(spans, cache.device)
        lengths = [span.start + span.count for span in spans]
        tables = [span.block_table[: blocks_for(length)] for span, length in zip(spans, lengths, strict=True)]
        queries = [0, *accumulate(span.count for span in spans)]
        keys = [0, *accumulate(BLOCK_SIZE * len(table) for table in tables)]
        numbers = to_device(queries + keys + lengths, cache.device, torch.int32)
        query_bounds, key_bounds, counted = numbers.split([len(queries), len(keys), len(lengths)])
        blocks = to_device([block for table in tables for block in table], cache.device)
        longest = max(span.count for span in spans), max(lengths)
        return cls(cache, positions, slots, blocks, (query_bounds, key_bounds), counted, longest)

    @classmethod
    def of_single_tokens(
        cls, cache: KVCache, positions: torch.Tensor, slots: torch.Tensor, tables: torch.Tensor
    ) -> FlashAttention:
        """One token of each sequence; tables [sequences, blocks]. Made on the device alone, so it can be recorded."""
        rows, width = tables.shape
        keys = width * BLOCK_SIZE
        queries = torch.arange(rows + 1, dtype=torch.int32, device=cache.device)
        lengths = (positions + 1).to(torch.int32)
        return cls(cache, positions, slots, tables.flatten(), (queries, queries * keys), lengths, (1, keys))

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        # Here and not above: it brings the compiler with it, 150 MB that nobody needs on a CPU.
        from torch.nn.attention.varlen import varlen_attn

        self.cache.write(layer, self.slots, key, value)
        keys, values = self.cache.gather_rows(layer, self._blocks)
        window = self.cache.layer_windows[layer]
        # One token sees all that counts. Said so, the kernel takes heads together and long sequences apart.
        whole = (-1, -1) if self._longest[0] == 1 else (-1, 0)
        out = varlen_attn(
            query, keys, values, *self._bounds, *self._longest,
            window_size=whole if window is None else (window - 1, 0), enable_gqa=True, seqused_k=self._lengths,
        )  # fmt: skip
        assert isinstance(out, torch.Tensor)
        return out
