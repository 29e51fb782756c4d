"""How fast answers come while a job trains beside them, on the same cores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from inference.engine.benchmark import Benchmark
from inference.engine.loaded_model import load_model
from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.engine_alone import COMPILED
from tests.load.lessons import frozen, of_mixed_lengths
from tests.services import wait_until
from training.datasets.recipe import Split
from training.trainer_process import TrainerProcess
from training.training_worker import threads

_AT_ONCE = (1, 8)
_CONVERSATIONS = 150


def answers() -> Iterator[Row]:
    """Tokens a second of one answer and of eight together, against the same engine with the machine to itself."""
    batches = [*_AT_ONCE]
    engine = Benchmark(
        load_model(demo_model()), batches=batches, prompt_tokens=64, max_tokens=128, compiled=COMPILED
    )
    alone = {batch: engine.measure(batch).decode for batch in batches}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = frozen(of_mixed_lengths(_CONVERSATIONS), folder, Split())
        spec = folder / "spec.json"
        spec.write_text(
            json.dumps(
                {"base": str(demo_model()), "dataset": str(dataset), "output": name, "threads": threads()}
            )
        )
        trainer = TrainerProcess(folder, "bench", spec, processes=1, threads=threads())
        try:
            metrics = folder / "metrics.jsonl"
            wait_until(lambda: metrics.exists() and '"step"' in metrics.read_text(), "a step", 300, 0.5)
            beside = {batch: engine.measure(batch).decode for batch in batches}
        finally:
            trainer.kill()
    engine.close()
    for batch in batches:
        yield Row.at_least(f"trainer.beside.decode.{batch}", beside[batch], alone[batch], "tokens/s", 0.6)
