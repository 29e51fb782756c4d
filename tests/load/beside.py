"""How fast answers come while a job trains beside them, on the same cores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from inference.engine.benchmark import Benchmark
from inference.engine.loaded_model import load_model
from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.engine_alone import COMPILED
from tests.load.lessons import frozen, of_mixed_lengths
from tests.services import wait_until
from training.datasets.recipe import Split
from training.trainer_process import TrainerProcess, marked
from training.training_worker import threads

_AT_ONCE = (1, 8)
_CONVERSATIONS = 150
_TURNS = 3
_JOB = "bench"


def answers() -> Iterator[Row]:
    """Tokens a second of one answer and of eight together, against the same engine with the machine to itself: by
    turns, while the trainer works and while it is stopped."""
    engine = Benchmark(
        load_model(demo_model()), batches=[*_AT_ONCE], prompt_tokens=64, max_tokens=128, compiled=COMPILED
    )
    alone: dict[int, list[float]] = {batch: [] for batch in _AT_ONCE}
    beside: dict[int, list[float]] = {batch: [] for batch in _AT_ONCE}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = frozen(of_mixed_lengths(_CONVERSATIONS), folder, Split())
        spec = folder / "spec.json"
        spec.write_text(
            json.dumps(
                {"base": str(demo_model()), "dataset": str(dataset), "output": name, "threads": threads()}
            )
        )
        trainer = TrainerProcess(folder, _JOB, spec, processes=1, threads=threads())
        metrics = folder / "metrics.jsonl"

        def steps() -> int:
            return metrics.read_text().count('"type":"step"') if metrics.exists() else 0

        try:
            wait_until(steps, "a step", 300, 0.5)
            for _ in range(_TURNS):
                for batch in _AT_ONCE:
                    beside[batch].append(engine.measure(batch).decode)
                for process in marked(_JOB):
                    process.suspend()
                for batch in _AT_ONCE:
                    alone[batch].append(engine.measure(batch).decode)
                for process in marked(_JOB):
                    process.resume()
            before = steps()
            wait_until(lambda: steps() > before, "another step", 300, 0.5)  # it has trained all the while
        finally:
            trainer.kill()
    engine.close()
    for batch in _AT_ONCE:
        found, usual = median(beside[batch]), median(alone[batch])
        yield Row.at_least(f"trainer.beside.decode.{batch}", found, usual, "tokens/s", 0.8)
