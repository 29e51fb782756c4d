"""What an engine's process holds beside weights and cache, and whether requests leave anything behind.

python -m tests.load.memory serve|grow FOLDER        one of them in a process of its own, as a line of JSON
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from inference.engine.benchmark import prompts
from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.engine.loaded_model import load_model
from inference.parameters import SamplingParams
from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.engine_alone import COMPILED
from tests.load.peers import json_of

_AT_ONCE = 32
_REQUESTS, _WARM_UP = 10_000, 1_000
# Small enough to be full, and so in memory as a whole, before anything is measured.
_KV_TOKENS = 6_000


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _in_use() -> int:
    """Resident bytes without what the allocator keeps for later, in which a leak could hide for long."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _resident()


def _run(engine: TorchEngine, texts: list[str], sampling: SamplingParams, seed: int) -> None:
    for number, text in enumerate(texts):
        engine.submit(
            Request(id=str(number), prompt=text, sampling=sampling, seed=seed + number, cache_salt=str(seed))
        )
    while engine.has_work:
        for output in engine.step():
            assert output.finish_reason != "error", output.error


def serve(folder: Path) -> int:
    """Bytes beside weights and cache after two rounds of full batches."""
    loaded = load_model(folder)
    engine = TorchEngine(loaded, kv_tokens=_KV_TOKENS, compiled=COMPILED)
    assert engine.compiled is not None
    engine.compiled.wait()
    texts = prompts(loaded.tokenizer.encode, _AT_ONCE, 64)
    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=128, ignore_eos=True)
    for seed in (0, _AT_ONCE):
        _run(engine, texts, sampling, seed)
    engine.close()
    model = loaded.model
    held = {id(tensor): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    cache = loaded.config.kv_elements_per_token * model.dtype.itemsize * _KV_TOKENS
    return _resident() - sum(held.values()) - cache


def grow(folder: Path) -> int:
    """Bytes that 9,000 short requests add after the first 1,000."""
    loaded = load_model(folder)
    engine = TorchEngine(loaded, kv_tokens=_KV_TOKENS)
    texts = prompts(loaded.tokenizer.encode, _AT_ONCE, 20)
    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=1, ignore_eos=True)
    before = 0
    for done in range(0, _REQUESTS, _AT_ONCE):
        if done >= _WARM_UP and not before:
            before = _in_use()
        _run(engine, texts, sampling, done)
    engine.close()
    return _in_use() - before


def _measured(what: str) -> float:
    command = [sys.executable, "-m", "tests.load.memory", what, str(demo_model())]
    return float(json_of("The engine", command)["bytes"]) / 1e6


def beside_model_and_cache() -> Iterator[Row]:
    yield Row.at_most("engine.memory", _measured("serve"), 400, "MB")


def growth() -> Iterator[Row]:
    """A request that left a kilobyte behind would show as 9 MB."""
    yield Row.at_most("engine.growth", max(_measured("grow"), 0.1), 8, "MB")


if __name__ == "__main__":
    print(json.dumps({"bytes": {"serve": serve, "grow": grow}[sys.argv[1]](Path(sys.argv[2]))}))
