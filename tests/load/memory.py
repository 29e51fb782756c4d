"""What an engine's process holds beside weights and cache, and whether requests leave anything behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.engine_alone import COMPILED
from tests.load.peers import json_of


def _measured(what: str) -> float:
    command = [sys.executable, "-m", "tests.load.memory_alone", what, str(demo_model()), str(COMPILED)]
    return float(json_of("The engine", command)["bytes"]) / 1e6


def beside_model_and_cache() -> Iterator[Row]:
    yield Row.at_most("engine.memory", _measured("serve"), 400, "MB")


def growth() -> Iterator[Row]:
    """A request that left a kilobyte behind would show as 9 MB."""
    yield Row.at_most("engine.growth", max(_measured("grow"), 0.1), 8, "MB")
