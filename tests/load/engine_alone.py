"""The engine with nothing around it: tokens a second of requests at once, each from its first token to its last.

python -m tests.load.engine_alone FOLDER REQUESTS PROMPT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams

TOKENS = 192
COMPILED = Path(__file__).resolve().parents[2] / "var" / "test-cache" / "compiled"
_WARM_UP = 16


def fixed_length(request: Request, tokens: int = TOKENS) -> Request:
    """The request with a length that does not depend on what the model says."""
    sampling = msgspec.structs.replace(request.sampling, max_tokens=tokens, ignore_eos=True)
    return msgspec.structs.replace(request, sampling=sampling)


def ready_engine(folder: Path) -> TorchEngine:
    """As a worker that has been there for a while has it: its layers are compiled."""
    engine = load_engine(folder, compiled=COMPILED)
    assert engine.compiled is not None
    engine.compiled.wait()
    return engine


def rate(folder: Path, count: int, prompt: str) -> float:
    engine = ready_engine(folder)
    sampling = SamplingParams(temperature=0.7, top_p=0.9)

    def run(length: int) -> float:
        for n in range(count):
            request = Request(
                id=str(n),
                messages=[{"role": "user", "content": prompt}],
                sampling=sampling,
                seed=n,
                cache_salt=str(n),  # as people of different workspaces, who share no prompt
            )
            engine.submit(fixed_length(request, length))
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        while engine.has_work:
            for output in engine.step():
                last[output.request_id] = time.monotonic()
                first.setdefault(output.request_id, last[output.request_id])
        return sum(length / (last[id_] - first[id_]) for id_ in last)

    run(_WARM_UP)
    return run(TOKENS)


if __name__ == "__main__":
    print(rate(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
