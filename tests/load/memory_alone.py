"""An engine alone in a process, weighed. It imports what an engine's process does and next to nothing else.

python -m tests.load.memory_alone serve|grow FOLDER COMPILED        one of them, as a line of JSON
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import psutil

# `gguf` imports it where it happens to be installed, with all it brings. It is a tool of our tests; no site has it.
sys.modules["mistral_common"] = None  # type: ignore[assignment]

from inference.engine import allocator
from inference.engine.benchmark import prompts
from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.engine.loaded_model import load_model
from inference.parameters import SamplingParams

_AT_ONCE = 32
_REQUESTS, _WARM_UP = 10_000, 1_000
# Small enough to be full, and so in memory as a whole, before anything is measured.
_KV_TOKENS = 6_000


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _in_use() -> int:
    """Resident bytes without what the allocator keeps for later, in which a leak could hide for long."""
    gc.collect()
    allocator.give_back()
    return _resident()


def _run(engine: TorchEngine, texts: list[str], sampling: SamplingParams, seed: int) -> None:
    for number, text in enumerate(texts):
        engine.submit(
            Request(id=str(number), prompt=text, sampling=sampling, seed=seed + number, cache_salt=str(seed))
        )
    while engine.has_work:
        for output in engine.step():
            assert output.finish_reason != "error", output.error


def serve(folder: Path, compiled: Path) -> int:
    """Bytes beside weights and cache after two rounds of full batches, once a worker has rested."""
    loaded = load_model(folder)
    engine = TorchEngine(loaded, kv_tokens=_KV_TOKENS, compiled=compiled)
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
    return _in_use() - sum(held.values()) - cache


def grow(folder: Path, _compiled: Path) -> int:
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


if __name__ == "__main__":
    _what, _folder, _compiled = sys.argv[1:]
    print(json.dumps({"bytes": {"serve": serve, "grow": grow}[_what](Path(_folder), Path(_compiled))}))
