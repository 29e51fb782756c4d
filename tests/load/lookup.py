"""Answers that repeat their prompt, one at a time: what speculation by prompt lookup makes of them, against llama.cpp.

python -m tests.load.lookup FOLDER        ours alone, as a line of JSON
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.parameters import SamplingParams
from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.engine_alone import ready_engine
from tests.load.peers import LLAMACPP, Unavailable, json_of
from tests.load.throughput import compare, demo_gguf

_ROUNDS, _SEEDS = 3, 3
_MAX_TOKENS = 192
_SAMPLING = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=_MAX_TOKENS)
LETTER = """Dear Mrs Halloway,

Thank you for your order of 14 March. The blue enamel teapot and the six matching cups were packed on Monday and left \
our warehouse in Bristol on Tuesday morning. The courier told us this afternoon that one of the parcels was damaged on \
the way. We are very sorry. A new parcel will leave our warehouse tomorrow, and you do not have to send the old one \
back. The courier will call you before it is delivered. If you would rather have your money back, please write to us \
by Friday and we will return the full price of 86 pounds within three days.

Yours sincerely,
Martin Oakes, Oakes and Daughters"""
_TASKS = (
    "Rewrite this letter. Keep every sentence, and only change the date to 15 March:\n\n",
    "Summarise this letter in its own words, sentence by sentence:\n\n",
    "Extract from this letter, word for word, every sentence that says what happens to a parcel:\n\n",
)


def _answer(engine: TorchEngine, request: Request) -> tuple[int, float]:
    """Tokens after the first output, and the seconds they took."""
    engine.submit(request)
    first = last = 0.0
    tokens = 0
    while engine.has_work:
        for output in engine.step():
            last = time.perf_counter()
            if first:
                tokens += len(output.token_ids)
            first = first or last
    return tokens, last - first


def measure(folder: Path) -> dict[str, object]:
    """Tokens a second of all answers, and of each task its prompt's ids and the tokens of its answers."""
    engine = ready_engine(folder)
    tasks, total, seconds = [], 0, 0.0
    _answer(engine, _request("Hello!", 0))
    for task in _TASKS:
        lengths = []
        for seed in range(_SEEDS):
            request = _request(task + LETTER, seed)
            tokens, took = _answer(engine, request)
            lengths.append(tokens)
            total, seconds = total + tokens, seconds + took
        tasks.append({"prompt": engine.encode_prompt(request), "tokens": round(statistics.mean(lengths))})
    engine.close()
    return {"rate": total / seconds, "tasks": tasks}


def _request(said: str, seed: int) -> Request:
    return Request(id="lookup", messages=[{"role": "user", "content": said}], sampling=_SAMPLING, seed=seed)


def against_llamacpp() -> Iterator[Row]:
    """By turns, on the same prompts and answers as long; llama.cpp one token at a time."""
    mine, peer = [], []
    name = "engine.lookup.1.llamacpp"
    for _ in range(_ROUNDS):
        found = json_of("The engine", [sys.executable, "-m", "tests.load.lookup", str(demo_model())])
        mine.append(found["rate"])
        runs = [{"prompts": [t["prompt"]], "max_tokens": t["tokens"] + 1} for t in found["tasks"]]
        try:
            figures = LLAMACPP.measure(model=str(demo_gguf()), runs=runs)
        except Unavailable as error:
            yield compare(name, mine[0], error)
            return
        lengths = [t["tokens"] for t in found["tasks"]]
        took = sum(n / run["decode"] for n, run in zip(lengths, figures, strict=True))
        peer.append(sum(lengths) / took)
    yield compare(name, statistics.median(mine), statistics.median(peer))


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
