"""The real Gemma 3 270M, out of its GGUF, says in fp32 what transformers says: within its window and far beyond."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from inference.engine.engine import TorchEngine
from inference.engine.loaded_model import LoadedModel, load_model
from inference.parameters import SamplingParams
from tests.inference.engine.references import kept_reference
from tests.inference.engine.running import ask, assert_greedy, run

# A quarter of a billion weights take their time on a busy machine.
pytestmark = pytest.mark.timeout(600)

WINDOW = 512
LONG = "".join(
    f"Day {day}: the {thing} was seen at {day % 12 + 1} o'clock.\n"
    for day, thing in enumerate(["red fox", "grey owl", "old badger", "young deer"] * 12)
)
PROMPTS = [
    "The capital of France is Paris. The capital of Germany is",
    "Die wichtigsten Zutaten für einen Apfelkuchen sind",
    LONG,
]
TOKENS = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)


@pytest.fixture(scope="module")
def reference(gemma_model_file: Path) -> PreTrainedModel:
    return kept_reference(gemma_model_file)


@pytest.fixture(scope="module")
def loaded(gemma_model_file: Path) -> LoadedModel:
    return load_model(gemma_model_file, dtype="fp32")


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> TorchEngine:
    return TorchEngine(loaded, kv_tokens=4096)


def test_its_shape_is_the_one_google_gave_it(loaded: LoadedModel) -> None:
    config = loaded.config
    assert (config.head_dim, config.num_kv_heads, config.context_length) == (256, 1, 32768)
    assert config.layer_windows == (WINDOW,) * 5 + (None,) + (WINDOW,) * 5 + (None,) + (WINDOW,) * 5 + (None,)


def test_every_token_is_that_of_transformers(engine: TorchEngine, reference: PreTrainedModel) -> None:
    requests = [ask(prompt, id=str(n), sampling=TOKENS) for n, prompt in enumerate(PROMPTS)]
    alone = [run(engine, request)[0] for request in requests]
    together = run(engine, *requests)
    for request, first, second in zip(requests, alone, together, strict=True):
        ids = engine.encode_prompt(request)
        assert (len(ids) > 1.5 * WINDOW) == (request.prompt == LONG)
        for answered in {tuple(first.token_ids), tuple(second.token_ids)}:
            assert_greedy(reference, ids, list(answered))
    assert " Berlin" in alone[0].text
