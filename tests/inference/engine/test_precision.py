"""Lower precision says nearly what fp32 says, and what a request is told never depends on who is computed with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inference.engine import linear
from inference.engine.engine import TorchEngine
from inference.engine.int8 import Int8Product
from inference.engine.interface import Request, TokenLogprob
from inference.engine.loaded_model import LoadedModel, load_model
from inference.parameters import SamplingParams
from tests.load.precision import FEW_ROWS, LIMIT, MANY_ROWS, fixed_text, perplexities

# About a thousand tokens.
TEXTS = dict.fromkeys((MANY_ROWS, FEW_ROWS), fixed_text(4200))


Loaded = Callable[[str], LoadedModel]


def scoring(loaded: LoadedModel) -> TorchEngine:
    return TorchEngine(loaded, max_running=1, kv_tokens=1024)


@pytest.fixture(scope="module")
def exact(loaded_demo: Loaded) -> float:
    """In fp32, where every product has the same form for few rows and for many."""
    return perplexities(scoring(loaded_demo("fp32")), {MANY_ROWS: TEXTS[MANY_ROWS]})[MANY_ROWS]


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_text_is_nearly_as_likely_as_in_fp32(dtype: str, loaded_demo: Loaded, exact: float) -> None:
    for rows, found in perplexities(scoring(loaded_demo(dtype)), TEXTS).items():
        assert found <= LIMIT * exact, f"{rows} rows at a time"


def test_nor_is_it_less_likely_in_int8_where_only_weights_are(
    demo_model_folder: Path, exact: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "multiplies_int8", lambda: False)
    loaded = load_model(demo_model_folder, dtype="int8")
    assert perplexities(scoring(loaded), {MANY_ROWS: TEXTS[MANY_ROWS]})[MANY_ROWS] <= LIMIT * exact


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_logprobs_do_not_depend_on_what_others_in_the_batch_say(dtype: str, loaded_demo: Loaded) -> None:
    engine = TorchEngine(loaded_demo(dtype), kv_tokens=4096)
    ids = engine.tokenizer.encode(fixed_text(4000))
    specials = sorted(engine.tokenizer.special_ids)
    for others in (2, 11):  # few rows, for which some products have another form, and many
        calm = [ids[20 * n : 20 * n + 20] for n in range(1, others + 1)]
        # What no text looks like, so that the hidden states are large.
        wild = [(specials[n % len(specials) :] + specials)[:1] * 20 for n in range(others)]
        first, second = (_logprobs(engine, ids[:20], mates) for mates in (calm, wild))
        assert len(first) == 8
        assert first == second


def _logprobs(engine: TorchEngine, prompt: list[int], mates: list[list[int]]) -> list[TokenLogprob]:
    """Of eight answered tokens, each with its five likeliest; nothing is found computed before."""
    sampling = SamplingParams(temperature=0, max_tokens=8, logprobs=5, ignore_eos=True)
    for number, ids in enumerate([prompt, *mates]):
        engine.submit(
            Request(id=str(number), prompt_token_ids=ids, sampling=sampling, cache_salt=f"{mates}/{number}")
        )
    found: list[TokenLogprob] = []
    while engine.has_work:
        for output in engine.step():
            if output.request_id == "0":
                found += output.logprobs or []
    engine.check_integrity()
    return found


def test_a_row_that_is_not_finite_or_is_nothing_stays_so_and_leaves_the_others_alone() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(64, 32), torch.randn(6, 32).bfloat16()
    product = Int8Product(weight, torch.ones(32))
    alone = product(x)
    x[1], x[3, 0], x[5, 7] = 0, float("nan"), float("inf")
    y = product(x)
    assert torch.equal(y[[0, 2, 4]], alone[[0, 2, 4]])
    assert torch.equal(y[1], torch.zeros(64, dtype=torch.bfloat16))
    assert not y[[3, 5]].isfinite().any()
