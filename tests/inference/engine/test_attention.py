"""Attention over the paged cache gives the same numbers in every form it has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from inference.engine.attention import PagedAttention, Span
from inference.engine.config import ModelConfig
from inference.engine.config_folder import config_from_folder
from inference.engine.kv_cache import KVCache

TABLE = [5, 2, 9, 1, 7, 3, 8, 4, 6, 10]


@pytest.fixture
def config(tiny_folder: Path) -> ModelConfig:
    return config_from_folder(tiny_folder)


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("count", [2, 16, 17, 40])
def test_a_later_chunk_in_bf16_attends_as_the_same_numbers_do_in_fp32(
    count: int, window: int | None, config: ModelConfig
) -> None:
    config = dataclasses.replace(config, layer_windows=(window,) * config.num_layers)
    random = torch.Generator().manual_seed(count)

    def some(rows: int, heads: int) -> torch.Tensor:
        return torch.randn(rows, heads, config.head_dim, generator=random).to(torch.bfloat16)

    kv_heads, start = config.num_kv_heads, 100
    before = some(start, kv_heads), some(start, kv_heads)
    query, key, value = some(count, config.num_heads), some(count, kv_heads), some(count, kv_heads)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        cache = KVCache(config, 160, dtype)
        slots = torch.tensor([TABLE[n // 16] * 16 + n % 16 for n in range(start)])
        cache.write(0, slots, before[0].to(dtype), before[1].to(dtype))
        attend = PagedAttention(cache, [Span(start, count, TABLE)])
        found[dtype] = attend(0, query.to(dtype), key.to(dtype), value.to(dtype)).float()
    torch.testing.assert_close(found[torch.bfloat16], found[torch.float32], atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    "counts", [[40], [40, 40, 40], [33, 64, 50], [70, 3, 40, 128, 130, 65], [1, 20, 1, 20]]
)
def test_beginnings_in_bf16_attend_together_as_each_does_alone_in_fp32(
    counts: list[int], config: ModelConfig
) -> None:
    random = torch.Generator().manual_seed(len(counts))
    tables = [[*range(1 + 9 * n, 10 + 9 * n)] for n in range(len(counts))]
    spans = [Span(0, count, table) for count, table in zip(counts, tables, strict=True)]

    def some(heads: int) -> torch.Tensor:
        return torch.randn(sum(counts), heads, config.head_dim, generator=random).to(torch.bfloat16)

    query, key, value = some(config.num_heads), some(config.num_kv_heads), some(config.num_kv_heads)
    together = PagedAttention(KVCache(config, 16 * 9 * len(counts), torch.bfloat16), spans)(
        0, query, key, value
    )
    exact = KVCache(config, 16 * 9 * len(counts), torch.float32)
    begin = 0
    for span in spans:
        rows = slice(begin, begin + span.count)
        alone = PagedAttention(exact, [span])(0, query[rows].float(), key[rows].float(), value[rows].float())
        torch.testing.assert_close(together[rows].float(), alone, atol=0.02, rtol=0.02)
        begin += span.count
