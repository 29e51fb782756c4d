"""The adapters of one engine: their names, and those that are ready to compute with. Knows nothing of sequences.

From a folder to a step: `read` (any thread) -> `add` under a name -> `pin`, when a request's turn has come -> the stack
is made anew with it, a bounded piece a step -> `ready`. The stack in use serves until the new one is whole.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import torch

from inference.engine.adapter_slots import AdapterSlots
from inference.engine.adapters import LoadedAdapter, read_adapter
from inference.engine.config import ModelConfig
from inference.engine.interface import InvalidAdapter, UnknownAdapter
from inference.engine.lora import AdaptedRows, GatheredProduct, LoraStack

logger = logging.getLogger(__name__)

# What a step gives to making a stack while others wait for their next word [s].
_PIECE = 0.010


class AdapterManager:
    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        *,
        max_loras: int,
        max_lora_rank: int,
        max_cpu_loras: int,
    ) -> None:
        """As vLLM names them: adapters beside the weights at once, their rank at most, and names known at once.

        Nothing is allocated before an adapter is used. One that changes every matrix takes, for each rank and layer of
        a model of width d, inner width i and key-value width k, 9 d + 3 i + 2 k numbers beside the weights (twice that
        while the stack is made anew) and as many in host memory: on SmolLM2-135M in bf16, at rank 16, 10 MB.
        """
        self._config, self._dtype, self._device = config, dtype, device
        self._max_rank, self._max_known = max_lora_rank, max_cpu_loras
        self._known: OrderedDict[str, LoadedAdapter] = OrderedDict()  # the longest unused first
        self._slots = AdapterSlots(max_loras)
        self._occupants: dict[str, LoadedAdapter] = {}
        self._stack: LoraStack | None = None
        self._next: LoraStack | None = None  # being made

    @property
    def loaded(self) -> int:
        """Those that have a slot beside the weights."""
        return self._slots.taken

    def read(self, folder: Path) -> LoadedAdapter:
        """Touches nothing here, so it may run in any thread. Raises InvalidAdapter."""
        return read_adapter(folder, self._config, self._dtype, self._max_rank)

    def add(self, name: str, adapter: LoadedAdapter) -> None:
        if adapter.config != self._config:
            raise InvalidAdapter("The adapter was read for another model.")
        self.remove(name)
        self._known[name] = adapter
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)

    def remove(self, name: str) -> None:
        self._known.pop(name, None)

    def get(self, name: str) -> LoadedAdapter:
        if name not in self._known:
            raise UnknownAdapter(f"There is no adapter named {name!r} here; load it first.")
        self._known.move_to_end(name)
        return self._known[name]

    def pin(self, adapter: LoadedAdapter) -> bool:
        """Keeps it beside the weights, or soon there, until `unpin`; False where others need all the slots."""
        if not self._slots.pin(adapter.digest):
            return False
        self._occupants[adapter.digest] = adapter
        return True

    def unpin(self, adapter: LoadedAdapter) -> None:
        self._slots.unpin(adapter.digest)

    def ready(self, adapter: LoadedAdapter) -> bool:
        """Whether a pinned one can be computed with now, and still can when a stack that is being made is whole."""
        return all(
            stack is not None and adapter.digest in stack.digests
            for stack in (self._stack, self._next or self._stack)
        )

    def step(self, *, hurried: bool) -> bool:
        """Goes on with what is to be made: all of it, or where others are waiting for their next word, a piece.

        Answers whether something became ready. Where there is no room, it raises what torch raises, and none is ready:
        then whoever pinned one has to leave, and `clear` comes next.
        """
        self._slots.step()
        if self._next is None:
            wanted = self._slots.occupants
            self._occupants = {digest: self._occupants[digest] for digest in wanted}
            if wanted == (self._stack.digests if self._stack else frozenset()):
                return False
            if not wanted:
                self._stack = None
                return False
            self._next = LoraStack(self._occupants.values(), self._device)
        whole = None
        try:
            whole = self._next.build(time.monotonic() + _PIECE if hurried else math.inf)
        except (RuntimeError, MemoryError) as error:  # as torch says that two have no room beside each other
            logger.warning("The adapters are put anew beside the weights while all wait: %s", error)
        if whole is None:
            self._stack = self._next = None
            self._next = LoraStack(self._occupants.values(), self._device)
            whole = self._next.build(math.inf)
        if not whole:
            return False
        self._stack, self._next = self._next, None
        return True

    def clear(self) -> None:
        """Nobody has pinned any, and none is beside the weights any more."""
        self._stack = self._next = None
        self._occupants = {}
        self._slots.clear()

    def rows(
        self, spans: list[tuple[LoadedAdapter | None, int]], gathered: GatheredProduct | None
    ) -> AdaptedRows | None:
        """For a step that computes so many tokens with each adapter; None where all of them are the base model's."""
        if not any(adapter for adapter, _ in spans):
            return None
        assert self._stack is not None
        return self._stack.rows(spans, gathered)

    def check_integrity(self, holders: Iterable[LoadedAdapter]) -> None:
        """Raises AssertionError where a pin was lost, or an adapter is kept for nobody."""
        self._slots.check_integrity(holder.digest for holder in holders)
        if not self._slots.occupants <= set(self._occupants):
            raise AssertionError("A slot is taken by an adapter that is not here.")
