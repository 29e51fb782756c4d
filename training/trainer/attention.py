"""Attention for training: sequences one after the other in a row, each causal within itself. Knows nothing of layers.

They may all go on from the same prefix, which is there once, at the beginning, and which each of them sees.
Sequences of similar length are attended to as one padded batch: what is padded comes after what is real, so nothing
real sees it, and attention is a few percent of a short sequence's arithmetic. Query heads that share a key-value head
are folded together, as in `inference.engine.attention`, so that no key is repeated.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F

# Up to this length plain products are faster than the fused kernel on a CPU, forth and back (measured in bf16: 2.4
# times at 256 tokens, 5 times at 64), and what they keep for the way back is small.
_PRODUCTS_LENGTH = 384


class _Take(torch.autograd.Function):
    """x[index], whose gradient is gathered, not added up: `back` says where each row went; rows in `blank` get none."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, index: torch.Tensor, back: torch.Tensor, blank: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(back, blank)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        back, blank = ctx.saved_tensors
        gradient = gradients[0].index_select(0, back)
        if blank is not None:
            gradient.index_fill_(0, blank, 0)
        return gradient, None, None, None


class PackedAttention:
    """An `Attend` for one forward pass over a prefix and sequences of these lengths, in this order."""

    def __init__(
        self,
        lengths: list[int],
        layer_windows: tuple[int | None, ...],
        device: torch.device,
        prefix: int = 0,
    ) -> None:
        self._windows, self._prefix = layer_windows, prefix
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}
        starts = [prefix]
        for length in lengths:
            starts.append(starts[-1] + length)
        groups: dict[int, list[int]] = defaultdict(list)
        for index, length in enumerate(lengths):
            # At most half of a batch's rows are padding, however different the sequences are.
            groups[(length - 1).bit_length()].append(index)
        self._groups: list[tuple[int, int]] = []  # sequences, and the longest
        pad = [torch.arange(prefix)] if prefix else []
        blank: list[torch.Tensor] = []
        unpad = torch.arange(starts[-1])
        row = prefix
        for members in groups.values():
            longest = max(lengths[index] for index in members)
            self._groups.append((len(members), longest))
            for index in members:
                start, length = starts[index], lengths[index]
                # Padding repeats the last token; what comes of it is dropped.
                pad.append(torch.arange(start, start + longest).clamp_(max=start + length - 1))
                unpad[start : start + length] = torch.arange(row, row + length)
                blank.append(torch.arange(row + length, row + longest))
                row += longest
        # A row that needs neither another order nor padding is taken as it is.
        self._pad = None if len(pad) == 1 else torch.cat(pad).to(device)
        self._unpad = unpad.to(device)
        self._blank = torch.cat(blank).to(device)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        shape = query.shape
        if self._pad is not None:
            query, key, value = (_Take.apply(x, self._pad, self._unpad, None) for x in (query, key, value))
        window = self._windows[layer]
        outs, row = [], self._prefix
        shared: tuple[torch.Tensor, torch.Tensor] | None = None
        if row:
            shared = key[:row], value[:row]
            outs.append(self._attend(query[:row], *shared, 1, window, None))
        for count, length in self._groups:
            rows = slice(row, row + count * length)
            outs.append(self._attend(query[rows], key[rows], value[rows], count, window, shared))
            row += count * length
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        if self._pad is None:
            return out.reshape(shape)
        taken: torch.Tensor = _Take.apply(out, self._unpad, self._pad, self._blank)
        return taken

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        count: int,
        window: int | None,
        shared: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """`count` sequences of one length: query [count * length, heads, dim], key and value with fewer heads.

        `shared`: keys and values of the prefix, which all of them see.
        """
        rows, heads, dim = query.shape
        kv_heads = key.shape[1]
        length = rows // count

        def folded(x: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
            """[count * kv_heads, heads of a key-value head, length, dim]"""
            x = x.view(count, length, kv_heads, -1, dim)
            if before is not None:
                x = torch.cat([before.view(1, -1, kv_heads, 1, dim).expand(count, -1, -1, -1, -1), x], dim=1)
            x = x.permute(0, 2, 3, 1, 4)
            return x.reshape(count * kv_heads, -1, x.shape[3], dim)

        queries = folded(query)
        keys, values = (
            folded(x, before) for x, before in zip((key, value), shared or (None, None), strict=True)
        )
        mask = self._mask(length, keys.shape[2], window, query)
        if query.is_cuda or length > _PRODUCTS_LENGTH:
            shape = (-1, heads // kv_heads, -1, -1)
            out = F.scaled_dot_product_attention(
                queries, keys.expand(shape), values.expand(shape), attn_mask=mask, is_causal=mask is None
            )
        else:
            assert mask is not None
            masks = mask.repeat(heads // kv_heads, 1).expand(count * kv_heads, -1, -1)
            scores = torch.baddbmm(masks, queries.flatten(1, 2), keys.mT.squeeze(1), alpha=dim**-0.5)
            out = torch.bmm(scores.softmax(dim=-1), values.squeeze(1))
        out = out.view(count, kv_heads, -1, length, dim)
        return out.permute(0, 3, 1, 2, 4).reshape(rows, heads, dim)

    def _mask(self, length: int, seen: int, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """[length, seen]: 0 where a query sees a key, -inf where not; None where the fused kernel knows by itself.

        The keys are those of the queries' own tokens, the last of `seen`, and of what is before them.
        """
        if window is not None and window >= seen:
            window = None
        if window is None and length == seen and (like.is_cuda or length > _PRODUCTS_LENGTH):
            return None
        if (length, seen, window) not in self._masks:
            place = torch.arange(seen, device=like.device)
            ahead = place - place[seen - length :].unsqueeze(1)
            hidden = ahead > 0 if window is None else (ahead > 0) | (ahead <= -window)
            self._masks[length, seen, window] = like.new_zeros(length, seen).masked_fill_(
                hidden, float("-inf")
            )
        return self._masks[length, seen, window]
