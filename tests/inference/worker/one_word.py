"""An engine that answers each request with one word, for tests of what its worker does with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db import connections

from inference.engine.interface import Adapter, Admission, EngineFigures, InvalidAdapter, Request, StepOutput
from inference.models import Generation, ServedModel
from inference.worker import WorkerHost
from tests.services import wait_until


class OneWordEngine:
    """Answers each request with one text, in one step; or breaks in every step."""

    model_digest = "0" * 64
    text = "word"
    breaks = False

    def __init__(self) -> None:
        self._requests: list[str] = []

    def prepare(self, request: Request) -> Any:
        return None

    def read_adapter(self, folder: Path) -> Adapter:
        raise InvalidAdapter("It answers with one word, whatever is asked of it.")

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        pass

    def submit(self, request: Request, prepared: Any = None) -> Admission:
        self._requests.append(request.id)
        return Admission(prompt_tokens=1, max_tokens=1, dropped_messages=0)

    def cancel(self, request_id: str) -> None:
        pass

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def figures(self) -> EngineFigures:
        return EngineFigures()

    def close(self) -> None:
        pass

    def step(self) -> list[StepOutput]:
        if self.breaks:
            raise RuntimeError("the device is gone")
        done, self._requests = self._requests, []
        return [StepOutput(id_, [1], text=self.text, finish_reason="stop") for id_ in done]


def load(model: ServedModel, *, beside: object = None) -> OneWordEngine:
    return OneWordEngine()


def ended(generation: Generation) -> Generation:
    def row() -> Generation | None:
        generation.refresh_from_db()
        return generation if generation.is_finished else None

    return wait_until(row, "the generation to end")


def ended_by(host: WorkerHost, generation: Generation) -> Generation:
    host.run(str(generation.id))
    return ended(generation)


def in_thread(call: Callable[..., Any], *arguments: Any) -> None:
    try:
        call(*arguments)
    finally:
        connections.close_all()
