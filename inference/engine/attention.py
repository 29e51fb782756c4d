"""Attention of one step over the paged cache, for sequences of any mixture of lengths. Knows nothing of layers.

Query heads that share a key-value head are folded into the query dimension, so that no key is ever repeated
(arXiv:2305.13245 without the copies; on a CPU this is several times faster than repeating or enable_gqa).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from inference.engine.blocks import BLOCK_SIZE
from inference.engine.device import to_device
from inference.engine.kv_cache import KVCache

# A chunk of more tokens than this, in bf16, is attended to by plain batched products: on two cores about twice as fast
# as the fused kernel, and as exact (perplexity of 17,000 tokens in chunks of 128: 11.931, fused 11.939, fp32 11.926).
_FUSED_TOKENS = 16
# So are sequences from their first token on, several together; longer ones gain more by never looking ahead.
_PRODUCTS_TOKENS = 128
# Scores it may hold at once [numbers]; where there are more, writing them down costs what it saves.
_MOST_SCORES = 2**22

# By the window of the layer: 0 where a query sees a key, -inf where not.
Masks = dict[int | None, torch.Tensor]


@dataclass(frozen=True)
class Span:
    """The tokens one sequence computes in a step: `count` of them from position `start` on."""

    start: int
    count: int
    block_table: list[int]


@dataclass(frozen=True)
class SingleTokens:
    """Sequences of similar length that compute one token each, attended to as one batch."""

    rows: torch.Tensor | None  # of the step's tokens; None is all of them in order
    tables: torch.Tensor  # [sequences, blocks], padded by block 0
    masks: Masks  # [sequences, 1, 1, keys]


@dataclass(frozen=True)
class _Chunk:
    """Several tokens of one sequence."""

    first_row: int
    span: Span
    table: torch.Tensor  # [1, blocks]
    masks: Masks  # [count, keys]; none where the chunk starts the sequence and no window hides any of it


@dataclass(frozen=True)
class _Beginnings:
    """The first tokens of several sequences of similar length, attended to as one batch."""

    rows: slice | torch.Tensor  # of the step's tokens, [sequences * longest]; shorter ones repeat their last
    own: torch.Tensor | None  # which of them are not repeated; None is all
    mask: torch.Tensor  # [longest, longest]


class PagedAttention:
    """An `Attend` for one step. What depends on the sequences alone is computed once, not once a layer."""

    def __init__(self, cache: KVCache, spans: list[Span], *, together: bool = False) -> None:
        """`together`: sequences of one token each are one group, unless more than half of that would be padding."""
        self.cache = cache
        lengths = [span.start + 1 for span in spans]
        together &= 2 * sum(lengths) > len(lengths) * max(lengths)
        self.positions, self.slots = positions_and_slots(spans, cache.device)
        self._chunks: list[_Chunk] = []
        beginnings: dict[int, list[tuple[int, int]]] = defaultdict(list)
        groups: dict[int, list[tuple[int, Span]]] = defaultdict(list)
        row = 0
        for span in spans:
            if span.count == 1:
                # At most half of a group's keys are padding, however different the sequences are.
                groups[0 if together else (span.start // BLOCK_SIZE).bit_length()].append((row, span))
            elif _is_beginning(cache, span):
                beginnings[(span.count - 1).bit_length()].append((row, span.count))
            else:
                self._chunks.append(_chunk(cache, row, span))
            row += span.count
        self._beginnings = [_beginnings(cache, members) for members in beginnings.values()]
        # Whether the step is one group of single tokens and nothing else.
        self.uniform = len(groups) == 1 and not (self._chunks or self._beginnings)
        self.singles = [_single_tokens(cache, members, self.uniform) for members in groups.values()]

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        self.cache.write(layer, self.slots, key, value)
        if self.uniform:
            return attend_single_tokens(self.cache, layer, self.singles[0], query)
        out = torch.empty_like(query)
        for single in self.singles:
            assert single.rows is not None
            out[single.rows] = attend_single_tokens(self.cache, layer, single, query[single.rows])
        for group in self._beginnings:
            attended = _attend_beginnings(group, query[group.rows], key[group.rows], value[group.rows])
            if group.own is None:
                out[group.rows] = attended
            else:
                assert isinstance(group.rows, torch.Tensor)
                out[group.rows[group.own]] = attended[group.own]
        for chunk in self._chunks:
            rows = slice(chunk.first_row, chunk.first_row + chunk.span.count)
            out[rows] = self._attend_chunk(layer, chunk, query[rows], key[rows], value[rows])
        return out

    def _attend_chunk(
        self, layer: int, chunk: _Chunk, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        cache, count = self.cache, query.shape[0]
        mask = chunk.masks.get(cache.layer_windows[layer])
        if chunk.span.start == 0:
            keys, values = key.transpose(0, 1), value.transpose(0, 1)
        else:
            length = chunk.span.start + count
            keys, values = (both[0, :, :length] for both in cache.gather(layer, chunk.table))
        # [kv_heads, count, group, head_dim]
        folded = query.view(count, cache.kv_heads, -1, cache.head_dim).transpose(0, 1)
        if mask is not None and _is_for_products(mask, query):
            out = _products(folded, keys, values, mask)
        else:
            shape = (-1, folded.shape[2], -1, -1)
            out = F.scaled_dot_product_attention(
                folded.transpose(1, 2),
                keys.unsqueeze(1).expand(shape),
                values.unsqueeze(1).expand(shape),
                attn_mask=mask,
                is_causal=mask is None,
            ).transpose(1, 2)
        return out.transpose(0, 1).reshape(query.shape)


def attend_single_tokens(
    cache: KVCache, layer: int, group: SingleTokens, query: torch.Tensor
) -> torch.Tensor:
    """query [sequences, heads, head_dim] -> the same."""
    keys, values = cache.gather(layer, group.tables)
    folded = query.view(query.shape[0], cache.kv_heads, -1, cache.head_dim)
    mask = group.masks[cache.layer_windows[layer]].expand(-1, -1, folded.shape[2], -1)
    out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
    return out.reshape(query.shape)


def _attend_beginnings(
    group: _Beginnings, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """query [sequences * longest, heads, head_dim]; key, value [sequences * longest, kv_heads, head_dim]."""
    longest, (_, kv_heads, dim) = len(group.mask), key.shape
    folded = query.view(-1, longest, kv_heads, query.shape[1] // kv_heads, dim).transpose(1, 2)
    keys, values = (both.view(-1, longest, kv_heads, dim).transpose(1, 2) for both in (key, value))
    out = _products(folded.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), group.mask)
    return out.view(folded.shape).transpose(1, 2).reshape(query.shape)


def _is_beginning(cache: KVCache, span: Span) -> bool:
    return (
        span.start == 0
        and _FUSED_TOKENS < span.count <= _PRODUCTS_TOKENS
        and cache.dtype == torch.bfloat16
        and not any(window is not None and window < span.count for window in cache.layer_windows)
    )


def _is_for_products(mask: torch.Tensor, query: torch.Tensor) -> bool:
    count, heads, _ = query.shape
    return query.dtype == torch.bfloat16 and count > _FUSED_TOKENS and mask.numel() * heads <= _MOST_SCORES


def _products(
    folded: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """folded [batch, count, group, head_dim]; keys, values [batch, keys, head_dim] -> as folded. `batch`: key-value
    heads, of one sequence or several."""
    batch, count, group, dim = folded.shape
    masks = mask.repeat_interleave(group, dim=0).expand(batch, -1, -1)
    queries = folded.reshape(batch, count * group, dim)
    scores = torch.baddbmm(masks, queries, keys.transpose(1, 2), alpha=dim**-0.5)
    return torch.bmm(scores.softmax(dim=-1), values).view(folded.shape)


def positions_and_slots(spans: list[Span], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token of a step, int64 [tokens]: where it stands in its sequence, and where it lies in the cache."""
    at = [(span.block_table, range(span.start, span.start + span.count)) for span in spans]
    positions = [position for _, positions in at for position in positions]
    slots = [
        table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for table, positions in at for p in positions
    ]
    return to_device(positions, device), to_device(slots, device)


def single_tokens(
    cache: KVCache, rows: torch.Tensor | None, positions: torch.Tensor, tables: torch.Tensor
) -> SingleTokens:
    """For queries at these positions, [sequences]; `rows` and `tables` as SingleTokens has them."""
    masks = _masks(positions, tables.shape[1] * BLOCK_SIZE, {*cache.layer_windows}, cache.dtype)
    return SingleTokens(rows, tables, {window: mask[:, None, None] for window, mask in masks.items()})


def _single_tokens(cache: KVCache, members: list[tuple[int, Span]], uniform: bool) -> SingleTokens:
    width = max(span.start for _, span in members) // BLOCK_SIZE + 1
    tables = [span.block_table[:width] for _, span in members]
    padded = to_device([table + [0] * (width - len(table)) for table in tables], cache.device)
    rows = None if uniform else to_device([row for row, _ in members], cache.device)
    return single_tokens(cache, rows, to_device([span.start for _, span in members], cache.device), padded)


def _chunk(cache: KVCache, row: int, span: Span) -> _Chunk:
    end = span.start + span.count
    table = to_device([span.block_table[: -(-end // BLOCK_SIZE)]], cache.device)
    windows = {*cache.layer_windows}
    if span.start == 0:
        windows = {window for window in windows if window is not None and window < end}
    positions = torch.arange(span.start, end, device=cache.device)
    return _Chunk(row, span, table, _masks(positions, end, windows, cache.dtype))


def _beginnings(cache: KVCache, members: list[tuple[int, int]]) -> _Beginnings:
    """`members`: their first rows and how many they have, in the order of rows."""
    longest = max(count for _, count in members)
    mask = _masks(torch.arange(longest, device=cache.device), longest, {None}, cache.dtype)[None]
    first, end = members[0][0], members[0][0] + longest * len(members)
    if members == [(row, longest) for row in range(first, end, longest)]:
        return _Beginnings(slice(first, end), None, mask)
    places = [(row + min(at, count - 1), at < count) for row, count in members for at in range(longest)]
    rows = to_device([row for row, _ in places], cache.device)
    own = to_device([at for at, (_, is_own) in enumerate(places) if is_own], cache.device)
    return _Beginnings(rows, own, mask)


def _masks(positions: torch.Tensor, keys: int, windows: set[int | None], dtype: torch.dtype) -> Masks:
    """For queries at these positions and keys from the start of the sequence on: one for each window."""
    ahead = torch.arange(keys, device=positions.device) - positions.unsqueeze(1)
    masks: Masks = {}
    for window in windows:
        hidden = ahead > 0 if window is None else (ahead > 0) | (ahead <= -window)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
        masks[window] = mask.masked_fill_(hidden, float("-inf"))
    return masks
