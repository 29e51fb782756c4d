"""A model from scratch on a megabyte of English: how soon it knows more than how common words are."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from tests.load.bench import Row
from training.datasets.clean import freeze
from training.datasets.reading import read_sources
from training.datasets.recipe import Recipe, Split
from training.datasets.sources import Reading, Source
from training.trainer_process import TRAINER

_TEXT = 1_000_000  # bytes
_LIMIT = 300.0  # seconds
_LAYERS = 4


def from_scratch() -> Iterator[Row]:
    """From the start of the program to the first evaluation below the unigram entropy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "documents.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in _documents()))
        read_sources([Source(file, file.name, Reading("jsonl", "document"))], folder)
        freeze(folder, Recipe(split=Split(validation=0.05, test=0)), folder / "frozen", parent="")
        seconds, entropy, loss = _learn(folder)
    print(f"entropy {entropy:.3f}, after it all {loss:.3f} nats a token", file=sys.stderr)
    yield Row.at_most("trainer.scratch", seconds, _LIMIT, "s")


def _learn(folder: Path) -> tuple[float, float, float]:
    """Seconds until the loss is below the entropy (infinite if it never is), the entropy, and the loss at the end."""
    spec = folder / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "task": "scratch",
                "size": _LAYERS,
                "dataset": str(folder / "frozen"),
                "output": str(folder / "job"),
            }
        )
    )
    began = time.time()
    subprocess.run([sys.executable, "-m", "training.launcher", "1", str(TRAINER), str(spec)], check=True)
    lines = [json.loads(line) for line in (folder / "job" / "metrics.jsonl").read_text().splitlines()]
    (entropy,) = (line["unigram_entropy"] for line in lines if line["type"] == "data")
    validations = [line for line in lines if line["type"] == "validation"]
    below = [line["time"] - began for line in validations if line["loss"] < entropy]
    return min(below, default=float("inf")), entropy, validations[-1]["loss"]


def _documents() -> Iterator[str]:
    """Python's reference and the documentation in its library, which every installation has."""
    left = _TEXT
    for text in _texts():
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _texts() -> Iterator[str]:
    yield from (topics[name] for name in sorted(topics))
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(file.read_bytes())
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
        said = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, nodes)]
        if text := "\n\n".join(filter(None, said)):
            yield text
