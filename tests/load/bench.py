"""`make bench`: measures, prints ratios, and writes $FLYWHEEL_HOME/bench.json, merging rows by name.

python -m tests.load.bench [ONLY]        ONLY: an area such as `chat` or `engine`, or the start of a row's name
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured figure. `ratio` is higher-is-better; it is to reach `target`."""

    name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float
    target: float
    note: str = ""  # why there is no peer's figure; written only then

    @classmethod
    def at_most(cls, name: str, ours: float, limit: float, unit: str) -> Row:
        """A figure without a peer that is to stay below an asked limit."""
        return cls(name, ours, limit, unit, limit / max(ours, 1e-9), 1.0)

    @classmethod
    def at_least(cls, name: str, ours: float, peer: float, unit: str, target: float) -> Row:
        """A figure that is to reach `target` times a peer's."""
        return cls(name, ours, peer, unit, ours / max(peer, 1e-9), target)

    @classmethod
    def without_peer(cls, name: str, ours: float, why: str, unit: str, target: float) -> Row:
        """A figure whose peer cannot be had here: compared with nothing, it reaches no target."""
        return cls(name, ours, None, unit, 0.0, target, why)

    def as_json(self) -> dict[str, Any]:
        row = asdict(self)
        return row if self.note else {key: value for key, value in row.items() if key != "note"}


Benchmark = Callable[[], Iterator[Row]]


def benchmarks() -> dict[str, Benchmark]:
    """Every benchmark, by the start of the names of its rows."""
    from tests.load import (
        adapters,
        api,
        beside,
        conversation,
        datasets,
        gpu,
        lookup,
        memory,
        operations,
        precision,
        report_page,
        scaling,
        scratch,
        sockets,
        startup,
        streaming,
        throughput,
        trainer,
        tried,
        turns,
        upload,
    )

    return {
        "api.overhead": api.overhead,
        "api.rate.1": api.rate,
        "api.completions": api.throughput,
        "api.streams": api.two_hundred_streams,
        "api.overload": api.overload,
        "chat.rate.1": partial(streaming.rate, 1, 0.95),
        "chat.rate.16": partial(streaming.rate, 16, 0.90),
        "chat.latency": streaming.latency,
        "chat.admission": streaming.admission,
        "chat.sockets.streaming": sockets.streaming,
        "chat.sockets.idle": sockets.idle,
        "chat.sockets.stalled": sockets.stalled,
        "chat.open": conversation.long_conversation,
        "engine.decode": throughput.decode,
        "engine.prefill": throughput.prefill,
        "engine.overhead": throughput.overhead,
        "engine.lookup": lookup.against_llamacpp,
        "engine.memory": memory.beside_model_and_cache,
        "engine.growth": memory.growth,
        "engine.ttft": turns.time_to_first_token,
        "engine.ppl": precision.against_fp32,
        "engine.gpu.decode.1": gpu.bandwidth,
        "engine.gpu.decode.128": gpu.against_transformers,
        "engine.adapters.16": adapters.together,
        "engine.adapters.load": adapters.loading,
        "data.million": datasets.million_rows,
        "data.fifty": datasets.fifty_rows,
        "data.fifty.page": report_page.fifty_rows,
        "data.upload": upload.two_gigabytes,
        "ops.backup": operations.backup,
        "ops.rolling": operations.rolling,
        "trainer.speed": trainer.speed,
        "trainer.loss": trainer.loss,
        "trainer.memory": trainer.memory,
        "trainer.chatterbot": trainer.small_corpus,
        "trainer.scratch": scratch.from_scratch,
        "trainer.beside": beside.answers,
        "trainer.tried": tried.first_word,
        "ops.start": startup.first_and_next,
        "ops.workers.2": scaling.workers,
        "ops.web.2": scaling.webs,
    }


def _asked(name: str, only: str) -> bool:
    """Whether rows that start with `name` hold one that starts with `only`, part by part."""
    return all(a == b for a, b in zip(name.split("."), only.split("."), strict=False)) or not only


def main(only: str = "") -> int:
    os.environ["DJANGO_SETTINGS_MODULE"] = (
        "tests.settings"  # Celery, where it is imported first, names the site's
    )
    home = Path(os.environ.get("FLYWHEEL_HOME") or Path(__file__).resolve().parents[2] / "var")
    import django

    django.setup()
    file = home / "bench.json"
    rows = {row["name"]: row for row in json.loads(file.read_text())} if file.exists() else {}
    missed = 0
    for name, benchmark in benchmarks().items():
        if not _asked(name, only):
            continue
        print(f"--- {name}", flush=True)
        started = time.monotonic()
        for row in benchmark():
            rows[row.name] = row.as_json()
            missed += row.ratio < row.target
            verdict = "" if row.ratio >= row.target else "   <-- below target"
            peer = "" if row.peer is None else f" against {row.peer:.4g}"
            ratio = f"ratio {row.ratio:.3f}, target {row.target:g}{verdict}"
            print(f"{row.name:42} {row.ours:10.4g} {row.unit}{peer}: {row.note or ratio}", flush=True)
        print(f"    ({time.monotonic() - started:.0f} s)", flush=True)
    home.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    print(f"written to {file}; {missed} of this run's figures below target")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
