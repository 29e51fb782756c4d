"""A generation that a worker has claimed, and the places such generations take. Knows no thread and no engine."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from django.conf import settings

from inference.emission import Emission
from inference.engine.interface import Adapter, EngineError, Pooling, Request
from inference.extras import Extras
from inference.models import Generation, ServedModel
from inference.parameters import SamplingParams
from inference.stream import Event, encode_event
from webapp.accounts.models import Workspace
from webapp.core import clock

if TYPE_CHECKING:
    from inference.engine.head import Head
    from inference.engines import Resident


# Of what is no text, by its purpose. A classifier's head was learnt on states as they are.
_POOLING = {"embedding": Pooling(), "classification": Pooling(kind="last", normalize=False)}


@dataclass(eq=False)
class Running:
    """A generation this worker has claimed, until its row is final. Touched by one thread at a time: Celery's, then
    the engine's, then the finisher's."""

    generation: Generation
    request: Request
    emission: Emission
    deadline: float  # on time.monotonic()'s clock
    text: list[str]
    tokens: int
    extras: Extras
    fields: dict[str, Any] = field(default_factory=dict)  # of the final row
    last_text: str = ""  # came free at the end and is not in the log yet
    ending: str = ""  # why it was cancelled: "cancelled", "deadline_exceeded", "handed_over"
    # What answers it (see `model_finder`); `unavailable` is why nothing does.
    resident: Resident | None = None  # held until it has ended
    adapter: Adapter | None = None
    head: Head | None = None
    prepared: Any = None  # what its engine made of the request ahead; or `refused` is why it takes none
    refused: EngineError | None = None
    model_name: str = ""
    model_digest: str = ""
    unavailable: str = ""
    awaiting: ServedModel | None = None  # what has to be loaded first

    @classmethod
    def resumed(cls, generation: Generation, prior: list[Event]) -> Running:
        """With what earlier attempts logged fed back in."""
        texts = [event for event in prior if event.type == "text"]
        extras = Extras.logged(prior)
        sampling = msgspec.convert(generation.params, SamplingParams, str_keys=True)
        if sampling.logprobs is not None and extras.logprobs is None:
            extras.logprobs = []
        admitted = next((event.data for event in prior if event.type == "admitted"), {})
        request = Request(
            id=str(generation.id),
            messages=generation.messages if generation.prompt is None else None,
            prompt=generation.prompt if isinstance(generation.prompt, str) else None,
            prompt_token_ids=generation.prompt if isinstance(generation.prompt, list) else None,
            choice=generation.choice,
            pooling=_POOLING.get(generation.purpose),
            sampling=sampling,
            seed=generation.seed,
            prior_token_ids=[token for event in texts for token in event.data["ids"]],
            truncate_oldest=generation.purpose in ("reply", "widget"),
            cache_salt=_cache_salt(generation.workspace_id),
        )
        entries = [encode_event(event.attempt, event.type, event.data) for event in prior]
        return cls(
            generation=generation,
            request=request,
            emission=Emission(request.id, generation.attempt, entries),
            deadline=time.monotonic() + _seconds_left(generation),
            text=[event.data["text"] for event in texts],
            tokens=len(request.prior_token_ids),
            extras=extras,
            # Where it is not admitted again, what it used before still counts.
            fields={"prompt_tokens": admitted.get("prompt_tokens", 0)},
        )


def _seconds_left(generation: Generation) -> float:
    left = (generation.deadline - clock.now()).total_seconds()
    # By a clock that was just set it may be over by an hour, or have one more.
    settled = clock.settled(settings.INFERENCE_LEASE_SECONDS + 1)
    return left if settled else float(settings.INFERENCE_DEADLINE_SECONDS)


@lru_cache(maxsize=10_000)
def _cache_salt(workspace_id: UUID) -> str:
    """A workspace keeps its salt for life."""
    return str(Workspace.objects.values_list("cache_salt", flat=True).get(id=workspace_id))


class Slots:
    """Who has a place in this worker. A place is taken before the claim and left when the row is no longer ours, so
    that what we claimed is always among those that hold one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._holders: Counter[str] = Counter()
        self._changed = threading.Condition()  # over a lock that its holder may take again

    def take(self, generation_id: str, *, timeout: float) -> bool:
        """Waits for a place, at most `timeout` seconds; False where none became free."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._holders.total() < self._size, timeout):
                return False
            self._holders[generation_id] += 1
            return True

    def leave(self, generation_id: str) -> None:
        with self._changed:
            assert self._holders[generation_id], "a place is left once"
            self._holders[generation_id] -= 1
            self._holders += Counter()  # drops what is at zero
            self._changed.notify_all()

    def pass_on(self, generation_id: str, *, to: str) -> None:
        """A place changes its holder and is free to nobody meanwhile."""
        with self._changed:
            self._holders[to] += 1
            self.leave(generation_id)

    def holds(self, generation_id: str) -> bool:
        with self._changed:
            return generation_id in self._holders

    def wait_empty(self, timeout: float) -> bool:
        """Waits until nobody holds a place, at most `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._holders, timeout)
