"""Jobs on a tiny model, for tests: begun in this process, and what they wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.services import wait_until
from training.trainer.command import main


class Trained:
    """What a job wrote."""

    def __init__(self, output: Path, exit_status: int) -> None:
        self.output, self.exit_status = output, exit_status

    def lines(self, type: str) -> list[dict[str, Any]]:
        file = self.output / "metrics.jsonl"
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in found if line["type"] == type]

    @property
    def losses(self) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.lines("step")}

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.output / "status.json").read_text())
        return status


class Bench:
    """Runs jobs on one model and one dataset."""

    def __init__(self, folder: Path, base: Path, dataset: Path) -> None:
        self.folder, self.base, self.dataset = folder, base, dataset

    def spec(self, output: str = "out", **changes: Any) -> Path:
        values: dict[str, Any] = {
            "base": str(self.base),
            "dataset": str(self.dataset),
            "output": str(self.folder / output),
            "batch_size": 4,
            "learning_rate": 0.005,
            "precision": "fp32",
            "max_steps": 6,
            "checkpoint_every": 2,
            "threads": 1,
        }
        path = self.folder / "spec.json"
        path.write_text(json.dumps(values | changes))
        return path

    def run(self, output: str = "out", **changes: Any) -> Trained:
        return Trained(self.folder / output, main([str(self.spec(output, **changes))]))


def wait_for_step(output: Path, step: int) -> None:
    wait_until(lambda: max(Trained(output, 0).losses, default=0) >= step, f"step {step}", 120)
