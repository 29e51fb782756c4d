"""A long conversation on the engine alone: how soon the tenth answer begins, against the first."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.parameters import SamplingParams
from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.engine_alone import ready_engine

_TURNS, _CONVERSATIONS = 10, 3
_SAMPLING = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=64, ignore_eos=True)
_SAID = "Tell me more about number {n}: how it came about, who worked on it, what it cost, and what is said of it. "


def _conversation(engine: TorchEngine, number: int) -> list[float]:
    """Seconds from each question to the first token of its answer."""
    messages: list[dict[str, Any]] = []
    waits = []
    for turn in range(_TURNS):
        messages.append({"role": "user", "content": _SAID.format(n=100 * number + turn) * 2})
        started, text, first = time.monotonic(), "", 0.0
        # A workspace of its own, so that no conversation finds another's beginning.
        salt = f"conversation {number}"
        engine.submit(Request(id="turn", messages=messages, sampling=_SAMPLING, seed=number, cache_salt=salt))
        while engine.has_work:
            for output in engine.step():
                first = first or time.monotonic()
                text += output.text
        waits.append(first - started)
        messages.append({"role": "assistant", "content": text})
    return waits


def time_to_first_token() -> Iterator[Row]:
    engine = ready_engine(demo_model())
    try:
        _conversation(engine, 0)
        waits = [_conversation(engine, number) for number in range(1, _CONVERSATIONS + 1)]
    finally:
        engine.close()
    first, last = (statistics.median(wait[turn] for wait in waits) * 1e3 for turn in (0, _TURNS - 1))
    # At most one and a half times the first turn's.
    yield Row("engine.ttft.turn10", last, first, "ms", first / last, 1 / 1.5)
