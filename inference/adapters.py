"""The adapters a worker has read, and which of them a generation is answered with. Knows nothing of how they compute.

Reading one is slow, so it is done by the thread that claimed the generation, ahead of the engine thread. An adapter's
name in the engine is its content digest: nothing else can ever come under it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import msgspec

from inference.engine.interface import Adapter, Engine, InvalidAdapter
from inference.formats.digest import adapted_digest
from inference.models import Generation, ServedModel
from inference.running import Running

# As many as an engine knows names of.
_KEPT = 32
OTHER_MODEL = "No worker serves the model of this reply right now. Try again."


class Adapters:
    """Those read last, in host memory. Any thread may call it; one reads at a time, and leaves cores to the engine."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._known: OrderedDict[str, Adapter] = OrderedDict()  # by digest, the longest unused first
        self._changing, self._reading = threading.Lock(), threading.Lock()

    def fit_out(self, running: Running, engine: Engine, served: ServedModel) -> None:
        """Gives the generation its adapter, or says in `unavailable` why this worker cannot answer it."""
        if running.generation.model_id == served.pk:
            return
        model = ServedModel.objects.filter(pk=running.generation.model_id).first()
        if model is None or model.base_id != served.pk:
            running.unavailable = OTHER_MODEL
        elif model.removed_at is not None:
            running.unavailable = f"{model.name} has been removed. Choose another model."
        else:
            try:
                adapter = self._find(model.digest) or self._read(running, engine, model)
            except InvalidAdapter as error:
                running.unavailable = f"{model.name} cannot be used. {error}"
            else:
                running.adapter = adapter
                running.request = msgspec.structs.replace(running.request, adapter=adapter.digest)
                running.model_name = model.name
                running.model_digest = adapted_digest(engine.model_digest, adapter.digest)

    def _find(self, digest: str) -> Adapter | None:
        with self._changing:
            if digest in self._known:
                self._known.move_to_end(digest)
            return self._known.get(digest)

    def _read(self, running: Running, engine: Engine, model: ServedModel) -> Adapter:
        with self._reading:
            adapter = self._find(model.digest)  # another thread has read it while we waited
            if adapter is None:
                adapter = engine.read_adapter(model.location)
                if adapter.digest != model.digest:
                    raise InvalidAdapter("Its files are not the ones that were registered.")
                with self._changing:
                    self._known[adapter.digest] = adapter
                    if len(self._known) > self._kept:
                        self._known.popitem(last=False)
        # Nobody knew of this generation meanwhile: a stop that came is in its row only.
        stopped = Generation.objects.filter(pk=running.generation.pk, cancel_requested=True)
        running.generation.cancel_requested = stopped.exists()
        return adapter
