"""What the engine's benchmark asks with, and that its figures are of the engine and not of its cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.engine import benchmark
from inference.engine.loaded_model import load_model


@pytest.mark.parametrize("tokens", [1, 20, 64, 700])
def test_prompts_are_different_and_as_long_as_asked(tiny_folder: Path, tokens: int) -> None:
    encode = load_model(tiny_folder, dtype="fp32").tokenizer.encode
    texts = benchmark.prompts(encode, 5, tokens)
    assert all(tokens <= len(encode(text)) <= tokens + 2 for text in texts)
    assert tokens < 20 or len(set(texts)) == 5


def test_no_prompt_is_found_computed_already(tiny_folder: Path) -> None:
    bench = benchmark.Benchmark(
        load_model(tiny_folder, dtype="fp32"), batches=[3], prompt_tokens=40, max_tokens=6, compiled=None
    )
    bench.measure(3)
    bench.measure(3)
    engine = bench._engine
    assert engine.prefix_use.asked > 0
    assert engine.prefix_use.reused == 0
    engine.check_integrity()
    bench.close()
