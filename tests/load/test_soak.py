"""The soak in short, and whether requests leave anything behind in the process."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference.engine.interface import Pooling, Request
from inference.engine.loader import load_engine
from inference.parameters import Regex, SamplingParams
from tests.inference.tiny_models import save_model
from tests.load.soak import soak


@pytest.fixture(autouse=True)
def _one_thread_for_tiny_models() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path)
    return tmp_path


def test_whatever_happens_to_requests_the_engine_ends_idle_and_intact(folder: Path) -> None:
    run = soak(folder, requests=250, seed=4)
    assert 250 <= run.ended.total() < 254  # the last may have had several choices
    assert set(run.ended) == {"stop", "length", "cancelled", "error"}
    assert {"engine_busy", "invalid_request", "invalid_grammar", "prompt_too_long"} <= set(run.refused)
    assert min(run.pushed_out, run.model.failed, run.model.not_finite) > 0, "it was no soak"


def test_requests_leave_nothing_behind(folder: Path) -> None:
    """No object of those the collector sees, and hardly a byte: torch now and then loses the name of an attribute
    that it looked for, such as "__dlpack__"."""
    engine = load_engine(folder, dtype="fp32", max_running=8, kv_tokens=128)

    def serve(begin: int) -> None:
        """Forty requests of every kind, of workspaces nobody has seen before."""
        for n in range(begin, begin + 40):
            kinds = (
                SamplingParams(max_tokens=3, temperature=0, logprobs=2),
                SamplingParams(max_tokens=3, presence_penalty=1, stop=("x",), logit_bias={7: 1.0}),
                SamplingParams(max_tokens=3, response_format=Regex("[a-c]{4}")),
                SamplingParams(max_tokens=0, prompt_logprobs=1),
            )
            pooling = Pooling() if n % 5 == 4 else None
            engine.submit(
                Request(
                    id=str(n),
                    prompt=f"number {n} " * 4,
                    seed=n,
                    cache_salt=f"workspace {n}",
                    sampling=kinds[n % 4] if pooling is None else SamplingParams(),
                    pooling=pooling,
                )
            )
            if n % 7 == 0:
                engine.cancel(str(n))
        while engine.has_work:
            engine.step()

    tracemalloc.start()
    try:
        for round_ in range(4):  # until what is kept for others (answers, grammars, blocks) is full
            serve(40 * round_)
        gc.collect()
        objects, held = len(gc.get_objects()), tracemalloc.get_traced_memory()[0]
        for round_ in range(4, 12):
            serve(40 * round_)
        gc.collect()
        objects, held = len(gc.get_objects()) - objects, tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()
    engine.check_integrity()
    engine.close()
    assert objects < 320 / 4
    assert held < 320 * 200
