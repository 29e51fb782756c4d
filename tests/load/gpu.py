"""Decode of a model of a billion random weights on a GPU: against its memory's bandwidth, and against transformers.

Runs in this process, with the transformers that tests compare with. Without a GPU its rows say so.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from inference.engine.config import ModelConfig
from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.engine.linear import Linear
from inference.engine.loaded_model import LoadedModel, load_model
from inference.engine.model import LlamaModel
from inference.parameters import SamplingParams
from tests.demo_model import demo_model
from tests.load.bench import Row

# The shape of Llama 3.2 1B.
_SHAPE: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_layers": 16,
    "num_heads": 32,
    "num_kv_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
_PROMPT_TOKENS, _MAX_TOKENS = 64, 128
_NO_GPU = "no CUDA device here, so there is no figure."


class _RandomTensors:
    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16).mul_(0.02)

    def rope_factors(self) -> torch.Tensor | None:
        return None


def bandwidth() -> Iterator[Row]:
    name = "engine.gpu.decode.1.bandwidth"
    if not torch.cuda.is_available():
        yield Row.without_peer(name, 0.0, _NO_GPU, "GB/s", 0.7)
        return
    loaded = _model()
    weights = sum(_bytes(part) for part in loaded.model.modules() if isinstance(part, Linear))
    yield Row.at_least(name, _rate(loaded, 1) * weights / 1e9, _copied_per_second() / 1e9, "GB/s", 0.7)


def against_transformers() -> Iterator[Row]:
    name = "engine.gpu.decode.128.transformers"
    if not torch.cuda.is_available():
        yield Row.without_peer(name, 0.0, _NO_GPU, "tokens/s", 8.0)
        return
    yield Row.at_least(name, _rate(_model(), 128), _rate_of_transformers(128), "tokens/s", 8.0)


def _model() -> LoadedModel:
    """The demo model's vocabulary and template around other weights."""
    demo = load_model(demo_model(), device="cpu")
    config: ModelConfig = dataclasses.replace(demo.config, **_SHAPE, layer_windows=(None,) * 16)
    with torch.no_grad():
        model = LlamaModel(config, _RandomTensors(), "bf16", [0])
    return dataclasses.replace(demo, config=config, model=model, dtype="bf16")


def _bytes(linear: Linear) -> int:
    return sum(tensor.nbytes for tensor in linear.parameters())


def _prompts(count: int) -> torch.Tensor:
    return torch.randint(1000, 40_000, (count, _PROMPT_TOKENS), generator=torch.Generator().manual_seed(1))


def _rate(loaded: LoadedModel, batch: int) -> float:
    """Tokens a second of steps in which all answer, sampled, with all that a worker's engine does."""
    engine = TorchEngine(loaded, max_running=batch, speculation=False)
    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=_MAX_TOKENS, ignore_eos=True)
    steps: list[float] = []
    for _ in range(2):  # the first time warms up
        steps.clear()
        for n, ids in enumerate(_prompts(batch).tolist()):
            engine.submit(Request(id=str(n), prompt_token_ids=ids, sampling=sampling, seed=n))
        while engine.has_work:
            started = time.perf_counter()
            if len(engine.step()) == batch:
                steps.append(time.perf_counter() - started)
    engine.close()
    return batch / statistics.median(steps)


def _rate_of_transformers(batch: int) -> float:
    from transformers import LlamaConfig, LlamaForCausalLM

    names = {
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
    }
    config = LlamaConfig(**{names.get(name, name): value for name, value in _SHAPE.items()})
    with torch.device("cuda"):
        model: Any = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).eval()
    ids = _prompts(batch).cuda()

    def generate(tokens: int) -> None:
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False,
        )  # fmt: skip

    generate(2)  # warms up
    seconds = _seconds(lambda: generate(_MAX_TOKENS)) - _seconds(lambda: generate(1))
    return batch * (_MAX_TOKENS - 1) / seconds


def _copied_per_second() -> float:
    """Bytes read and written by copying 2 GiB."""
    source = torch.zeros(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    times = [_seconds(lambda: target.copy_(source)) for _ in range(10)]
    return 2 * source.nbytes / min(times)


def _seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started
