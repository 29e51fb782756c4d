"""On a GPU: the numbers of the CPU and of transformers, and nothing waited for but the chosen tokens."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from inference.engine.engine import TorchEngine
from inference.engine.loader import load_engine
from inference.engine.perplexity import perplexity
from inference.parameters import SamplingParams
from tests.inference.engine.running import ask, needs_gpu, run
from tests.inference.engine.test_exactness_tiny import SHAPES, compare_logits
from tests.inference.lora_adapters import save_adapter
from tests.inference.tiny_models import save_model

pytestmark = needs_gpu

PROMPTS = ["The", "The quick brown fox", "def f(x):\n    return", "12345 and " * 90]
LONG = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=40, ignore_eos=True)


@pytest.mark.parametrize(
    "shape", ["grouped queries", "yarn rope", "mistral with a window", "qwen3", "gemma3"]
)
def test_every_logit_in_fp32_is_that_of_transformers(shape: str, tmp_path: Path) -> None:
    config, options = SHAPES[shape]
    compare_logits(tmp_path, save_model(tmp_path, config, **options), "cuda")


def test_a_mixed_batch_with_adapters_says_in_fp32_what_it_says_on_a_cpu(
    tiny_folder: Path, tmp_path: Path
) -> None:
    said = []
    for device in ("cpu", "cuda"):
        engine = load_engine(tiny_folder, dtype="fp32", device=device)
        for n, rank in enumerate((4, 8)):
            folder = save_adapter(tmp_path / f"{device}{n}", engine._loaded.config, seed=n, r=rank)
            engine.load_adapter(f"adapter{n}", folder)
        requests = [
            ask(prompt, id=f"{n} {adapter}", sampling=LONG, adapter=adapter)
            for n, prompt in enumerate(PROMPTS)
            for adapter in ("", "adapter0", "adapter1")
        ]
        said.append([answer.token_ids for answer in run(engine, *requests)])
    assert said[0] == said[1]


def test_what_is_drawn_is_drawn_on_a_cpu_as_well(tiny_folder: Path) -> None:
    samplings = [
        SAMPLED,
        SamplingParams(temperature=1.0, max_tokens=40, ignore_eos=True),
        SamplingParams(temperature=0.9, top_k=7, repetition_penalty=1.3, max_tokens=40, ignore_eos=True),
        SamplingParams(temperature=1.0, min_p=0.1, presence_penalty=0.5, max_tokens=40, ignore_eos=True),
    ]
    said = []
    for device in ("cpu", "cuda"):
        engine = load_engine(tiny_folder, dtype="fp32", device=device)
        requests = [ask("The", id=str(n), sampling=each, seed=n) for n, each in enumerate(samplings)]
        said.append([answer.token_ids for answer in run(engine, *requests)])
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_fewer_bits_predict_a_text_as_fp32_does(dtype: str, demo_model_folder: Path) -> None:
    text = "The travellers came to a town between two rivers, where the bridges were old. " * 20
    exact, rounded = (
        perplexity(load_engine(demo_model_folder, dtype=each, device="cuda"), text, 256).perplexity
        for each in ("fp32", dtype)
    )
    assert rounded == pytest.approx(exact, rel=0.02)


def test_recorded_steps_in_bf16_say_of_a_text_what_others_say(demo_model_folder: Path) -> None:
    engine = load_engine(demo_model_folder, dtype="bf16", device="cuda")
    graphs = engine.graphs
    sampling = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, logprobs=0)
    said = []
    for engine.graphs in (graphs, None):
        engine.submit(ask("The capital of France is", sampling=sampling))
        scores: list[float] = []
        while engine.has_work:
            scores += [t.logprob or 0.0 for output in engine.step() for t in output.logprobs or []]
        said.append(torch.tensor(scores[:10]))
    torch.testing.assert_close(said[0], said[1], atol=0.1, rtol=0.05)
    assert graphs is not None
    assert graphs.recorded


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_step_waits_for_its_tokens_alone(dtype: str, tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype=dtype, device="cuda", speculation=False)
    for n, prompt in enumerate(PROMPTS):
        engine.submit(ask(prompt, id=str(n), sampling=SAMPLED, seed=n))
    for _ in range(10):
        engine.step()
    for _ in range(10):
        assert _waits(engine) == 1


def _waits(engine: TorchEngine) -> int:
    """How often the host waits for the device in a step."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            engine.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in said)
