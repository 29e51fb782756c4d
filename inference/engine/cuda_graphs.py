"""Decode steps of a GPU as recordings: launched as one, where hundreds of kernels would be. Knows nothing of requests.

A recording has fixed shapes and addresses. So there is one for each number of rows and of blocks a row, both powers of
two, made when a step first needs it; what changes from step to step is copied into one tensor that all of them read.
Rows that are left over compute token 0 at the start of block 0, which belongs to nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from inference.engine.attention import SingleTokens, Span, attend_single_tokens, single_tokens
from inference.engine.blocks import BLOCK_SIZE, blocks_for
from inference.engine.device import to_device
from inference.engine.flash_attention import FlashAttention, is_for_flash
from inference.engine.kv_cache import KVCache
from inference.engine.model import Attend, LlamaModel

logger = logging.getLogger(__name__)

# Blocks a row has at least, and how many times what is needed may be gathered before an unrecorded step is better.
_LEAST_WIDTH, _MOST_PADDING = 16, 4

# Runs what it is given once, and answers what runs it again.
Record = Callable[[Callable[[], None]], Callable[[], None]]


class DecodeGraphs:
    """The forward pass of steps that compute one token of each sequence, without adapters."""

    def __init__(
        self, model: LlamaModel, cache: KVCache, max_rows: int, record: Record | None = None
    ) -> None:
        """`record` is how a pass is recorded [as a CUDA graph]."""
        self._model, self._cache, self._max_rows = model, cache, _bucket(max_rows)
        self._record = CudaRecorder() if record is None else record
        self._flash = is_for_flash(cache)
        most = min(blocks_for(model.config.context_length), cache.num_blocks)
        widest = _bucket(max(most, _LEAST_WIDTH))
        self._inputs = torch.zeros(self._max_rows * (2 + widest), dtype=torch.int64, device=cache.device)
        shape = self._max_rows, model.config.hidden_size
        self._hidden = torch.zeros(shape, dtype=cache.dtype, device=cache.device)
        # None: it could not be recorded, perhaps for want of memory.
        self.recorded: dict[tuple[int, int], Callable[[], None] | None] = {}

    def run(self, ids: list[int], spans: list[Span]) -> torch.Tensor | None:
        """As the model's forward pass, until the next run. None: this step is not one for recordings."""
        if len(spans) > self._max_rows or any(span.count != 1 for span in spans):
            return None
        needed = [blocks_for(span.start + 1) for span in spans]
        rows, width = _bucket(len(spans)), _bucket(max(*needed, _LEAST_WIDTH))
        if rows * width > _MOST_PADDING * sum(needed) + rows * _LEAST_WIDTH:
            return None
        inputs = np.zeros((rows, 2 + width), dtype=np.int64)
        for row, (token, span, blocks) in enumerate(zip(ids, spans, needed, strict=True)):
            inputs[row, :2] = token, span.start
            inputs[row, 2 : 2 + blocks] = span.block_table[:blocks]
        self._of(rows, width).copy_(to_device(torch.from_numpy(inputs), self._cache.device))
        if (rows, width) not in self.recorded:
            self.recorded[rows, width] = self._recording(rows, width)
        replay = self.recorded[rows, width]
        if replay is None:
            return None
        replay()
        return self._hidden[: len(spans)]

    def _recording(self, rows: int, width: int) -> Callable[[], None] | None:
        try:
            return self._record(lambda: self._pass(rows, width))
        except RuntimeError as error:
            # What it computed so far is what the step computes anyway.
            logger.warning("Steps of %d rows are not recorded, and slower for it: %s", rows, error)
            return None

    def _of(self, rows: int, width: int) -> torch.Tensor:
        """For each row its token, the token's position, and its blocks."""
        return self._inputs[: rows * (2 + width)].view(rows, 2 + width)

    def _pass(self, rows: int, width: int) -> None:
        ids, positions, tables = self._of(rows, width).split([1, 1, width], dim=1)
        ids, positions = ids.flatten(), positions.flatten()
        blocks = tables.gather(1, (positions // BLOCK_SIZE).unsqueeze(1)).squeeze(1)
        slots = blocks * BLOCK_SIZE + positions % BLOCK_SIZE
        attend: Attend
        if self._flash:
            attend = FlashAttention.of_single_tokens(self._cache, positions, slots, tables)
        else:
            attend = _MaskedAttention(self._cache, slots, single_tokens(self._cache, None, positions, tables))
        self._hidden[:rows] = self._model(ids, positions, attend)


class _MaskedAttention:
    """An `Attend` where there is no kernel for what the sequences are."""

    def __init__(self, cache: KVCache, slots: torch.Tensor, group: SingleTokens) -> None:
        self._cache, self._slots, self._group = cache, slots, group

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        self._cache.write(layer, self._slots, key, value)
        return attend_single_tokens(self._cache, layer, self._group, query)


class CudaRecorder:
    """Recordings share their memory: none runs beside another, and none's results are read after the next."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        # Libraries make what they need when they are first called, which a recording must not hold.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Only what this thread does is recorded: another may be reading an adapter meanwhile.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay


def _bucket(count: int) -> int:
    return 1 << (count - 1).bit_length()
