"""Many adapters in one batch against the base model alone, and what loading one costs those who are being answered."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from inference.engine.adapters import LoadedAdapter
from inference.engine.config import ModelConfig
from inference.engine.config_gguf import config_from_gguf
from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.formats.gguf_file import read_gguf
from inference.parameters import SamplingParams
from tests.demo_model import demo_model
from tests.inference.lora_adapters import save_adapter
from tests.load.bench import Row
from tests.load.engine_alone import ready_engine

_PROMPT = (
    "Explain to a new colleague how the sea, the moon and the weather make the tides along a coast. " * 2
)
_AT_ONCE, _ADAPTERS, _TOKENS, _ROUNDS = 16, 8, 64, 7


def _submit(engine: TorchEngine, count: int, adapters: list[str], tokens: int) -> None:
    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=tokens, ignore_eos=True)
    for n in range(count):
        messages = [{"role": "user", "content": f"{n}: {_PROMPT}"}]
        adapter = adapters[n % len(adapters)]
        engine.submit(Request(id=str(n), messages=messages, sampling=sampling, seed=n, adapter=adapter))


def _rate(engine: TorchEngine, adapters: list[str]) -> float:
    """Tokens a second while all of them are being answered."""
    _submit(engine, _AT_ONCE, adapters, _TOKENS)
    begun: set[str] = set()
    started, tokens = 0.0, 0
    while engine.has_work:
        outputs = engine.step()
        if len(begun) < _AT_ONCE:
            begun.update(output.request_id for output in outputs)
            started = time.monotonic()
        else:
            tokens += sum(len(output.token_ids) for output in outputs)
            if any(output.finish_reason for output in outputs):
                break
    rate = tokens / (time.monotonic() - started)
    while engine.has_work:
        engine.step()
    return rate


def _demo_config() -> ModelConfig:
    return config_from_gguf(read_gguf(next(demo_model().glob("*.gguf"))))


def together() -> Iterator[Row]:
    engine = ready_engine(demo_model())
    try:
        with tempfile.TemporaryDirectory() as folder:
            names = [f"adapter {n}" for n in range(_ADAPTERS)]
            for n, name in enumerate(names):
                engine.load_adapter(
                    name, save_adapter(Path(folder) / name, _demo_config(), seed=n, r=16, strength=0.1)
                )
        rates: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(_ROUNDS + 1):
            for adapted in (False, True):
                rate = _rate(engine, names if adapted else [""])
                if turn:  # the first warms up
                    rates[adapted].append(rate)
    finally:
        engine.close()
    ours, base = statistics.median(rates[True]), statistics.median(rates[False])
    yield Row.at_least("engine.adapters.16", ours, base, "tokens/s", 0.75)


def _longest_wait(engine: TorchEngine, folders: list[Path]) -> float:
    """The longest time [s] between two tokens of eight answers, while these adapters are read and first used."""
    read: list[tuple[str, LoadedAdapter]] = []

    def read_all() -> None:
        for folder in folders:
            read.append((str(folder), engine.read_adapter(folder)))

    _submit(engine, 8, [""], 10_000 if folders else 200)
    for _ in range(8):
        engine.step()
    reader = threading.Thread(target=read_all)
    reader.start()
    longest, used, last = 0.0, 0, time.monotonic()
    while engine.has_work:
        if used < len(read):
            name, adapter = read[used]
            engine.add_adapter(name, adapter)
            engine.submit(
                Request(id=name, prompt="The tide", sampling=SamplingParams(max_tokens=8), adapter=name)
            )
            used += 1
        ended = {output.request_id for output in engine.step() if output.finish_reason}
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if folders and str(folders[-1]) in ended:
            for n in range(8):
                engine.cancel(str(n))
            engine.step()
    reader.join()
    return longest


def loading() -> Iterator[Row]:
    """What adapters of ranks 16 and 64 add to the longest wait there is without."""
    engine = ready_engine(demo_model())
    try:
        with tempfile.TemporaryDirectory() as folder:
            folders = [
                save_adapter(Path(folder) / f"{n} of {rank}", _demo_config(), seed=n, r=rank, strength=0.1)
                for rank in (16, 64)
                for n in range(3)
            ]
            _longest_wait(engine, [])  # warms up
            quiet, loud = _longest_wait(engine, []), _longest_wait(engine, folders)
    finally:
        engine.close()
    print(f"    longest step without loading {quiet * 1e3:.0f} ms, with {loud * 1e3:.0f} ms")
    yield Row.at_most("engine.adapters.load", (loud - quiet) * 1e3, 100, "ms")
