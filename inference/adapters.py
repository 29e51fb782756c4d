"""The adapters and heads that were read for one engine. Knows nothing of generations, nor of how they compute.

Reading one is slow, so it is done by the thread that prepares a generation, ahead of the engine thread. An adapter's
name in the engine is its content digest: nothing else can ever come under it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from inference import local_models
from inference.engine.head import Head, read_head
from inference.engine.interface import Adapter, Engine, InvalidAdapter
from inference.formats.digest import adapted_digest
from inference.formats.errors import ModelFileError
from inference.models import ServedModel

# As many as an engine knows names of.
_KEPT = 32


class Fitting(NamedTuple):
    """What a model has beside the whole model it is made of."""

    adapter: Adapter | None
    head: Head | None


class Adapters:
    """Those read last, in host memory. Any thread may call it; one reads at a time, and leaves cores to the engine."""

    def __init__(self, engine: Engine, kept: int = _KEPT) -> None:
        self._engine, self._kept = engine, kept
        self._known: OrderedDict[str, Fitting] = (
            OrderedDict()
        )  # by the row's digest, the longest unused first
        self._changing, self._reading = threading.Lock(), threading.Lock()

    def known(self, model: ServedModel) -> Fitting | None:
        """What was read before; nothing where there is nothing to read."""
        if model.base_id is None and model.kind != ServedModel.Kind.CLASSIFIER:
            return Fitting(None, None)
        with self._changing:
            if model.digest in self._known:
                self._known.move_to_end(model.digest)
            return self._known.get(model.digest)

    def read(self, model: ServedModel) -> Fitting:
        """Takes its time. Raises InvalidAdapter, also where the files are not what the row says, and NotHere."""
        with self._reading:
            fitting = self.known(model)  # another thread has read it while we waited
            if fitting is None:
                fitting = self._read(model)
                with self._changing:
                    self._known[model.digest] = fitting
                    if len(self._known) > self._kept:
                        self._known.popitem(last=False)
            return fitting

    def _read(self, model: ServedModel) -> Fitting:
        with local_models.hold(model) as folder:
            adapter = self._engine.read_adapter(folder) if model.base_id is not None else None
            digest = adapter.digest if adapter is not None else self._engine.model_digest
            head = None
            if model.kind == ServedModel.Kind.CLASSIFIER:
                try:
                    head = read_head(folder)
                except ModelFileError as error:
                    raise InvalidAdapter(str(error)) from error
                digest = adapted_digest(digest, head.digest)
        if digest != model.digest:
            raise InvalidAdapter("Its files are not the ones that were registered.")
        return Fitting(adapter, head)
