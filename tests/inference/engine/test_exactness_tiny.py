"""Greedy text in fp32 equals transformers' on small models of every supported shape, alone and batched together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3TextConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

from inference.engine.attention import PagedAttention, Span
from inference.engine.engine import TorchEngine
from inference.engine.kv_cache import KVCache
from inference.engine.loaded_model import load_model
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.references import gguf_reference
from tests.inference.engine.running import ask, assert_greedy, run
from tests.inference.tiny_ggufs import save_as_gguf
from tests.inference.tiny_models import save_gguf, save_model, tiny_config

PROMPTS = ["The", "The quick brown fox", "def f(x):\n    return", "日本語 🙂 " * 20, "12345 and " * 90]
LONG = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)

_SMALL: dict[str, Any] = {
    name: getattr(tiny_config(), name)
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
    )
}

_GEMMA: dict[str, Any] = _SMALL | {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "head_dim": 16,
    "sliding_window": 24,
    "query_pre_attn_scalar": 40,
}
_WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 20}


def stretched(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 8.0} | values}


_LLAMA3 = stretched("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)
_YARN = stretched("yarn", original_max_position_embeddings=128)

SHAPES: dict[str, tuple[PretrainedConfig, dict[str, Any]]] = {
    "grouped queries": (tiny_config(), {}),
    "tied embeddings": (tiny_config(tie_word_embeddings=True), {}),
    "one key head for each query": (tiny_config(num_key_value_heads=6), {}),
    "one key head for all": (tiny_config(num_key_value_heads=1), {}),
    "heads wider than the stream": (tiny_config(head_dim=16), {}),
    "biases": (tiny_config(attention_bias=True, mlp_bias=True), {}),
    "sharded": (tiny_config(), {"max_shard_size": "60KB"}),
    "linear rope": (tiny_config(**stretched("linear")), {}),
    "llama3 rope": (tiny_config(**_LLAMA3), {}),
    "yarn rope": (tiny_config(**_YARN), {}),
    "yarn rope, its attention factor given": (
        tiny_config(**stretched("yarn", original_max_position_embeddings=100, attention_factor=1.4)),
        {},
    ),
    "yarn rope with all it can be told": (
        tiny_config(
            **stretched(
                "yarn",
                original_max_position_embeddings=128,
                mscale=1.2,
                mscale_all_dim=0.6,
                beta_fast=20.0,
                beta_slow=2.0,
                truncate=False,
            )
        ),
        {},
    ),
    "qwen2": (Qwen2Config(**_SMALL, tie_word_embeddings=True), {}),
    "qwen2 with windows in its later layers": (Qwen2Config(**_SMALL, **_WINDOWS, max_window_layers=1), {}),
    "qwen3": (Qwen3Config(**_SMALL, head_dim=16), {}),
    "qwen3 with biases, yarn and windows here and there": (
        Qwen3Config(
            **_SMALL | _WINDOWS | _YARN,
            head_dim=16,
            attention_bias=True,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        {},
    ),
    "mistral": (MistralConfig(**_SMALL, sliding_window=None, tie_word_embeddings=False), {}),
    "mistral with a window": (MistralConfig(**_SMALL, sliding_window=33, head_dim=16), {}),
    "gemma3": (Gemma3TextConfig(**_GEMMA), {}),
    "gemma3, its head apart and in shards": (
        Gemma3TextConfig(**_GEMMA, tie_word_embeddings=False),
        {"max_shard_size": "60KB"},
    ),
    "gemma3 beside a part that sees": (
        Gemma3Config(
            text_config=Gemma3TextConfig(**_GEMMA),
            vision_config=SiglipVisionConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=1,
                image_size=16,
                patch_size=8,
            ),
            mm_tokens_per_image=4,
        ),
        {},
    ),
    "gemma3, its global positions stretched": (
        Gemma3TextConfig(
            **_GEMMA,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        ),
        {},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_text_is_that_of_transformers_alone_and_together(shape: str, tmp_path: Path) -> None:
    config, options = SHAPES[shape]
    reference = save_model(tmp_path, config, **options)
    engine = load_engine(tmp_path, dtype="fp32")
    _compare(engine, reference)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_logit_is_that_of_transformers_whatever_the_chunks(shape: str, tmp_path: Path) -> None:
    config, options = SHAPES[shape]
    compare_logits(tmp_path, save_model(tmp_path, config, **options))


# What a GGUF cannot say is left out: biases of the feed-forward layer, and windows of a Qwen.
@pytest.mark.parametrize(
    "shape",
    [
        "grouped queries",
        "tied embeddings",
        "heads wider than the stream",
        "linear rope",
        "llama3 rope",
        "yarn rope",
        "yarn rope, its attention factor given",
        "qwen2",
        "qwen3",
        "mistral with a window",
        "gemma3",
        "gemma3, its head apart and in shards",
        "gemma3, its global positions stretched",
    ],
)
def test_every_logit_is_that_of_transformers_out_of_a_gguf(shape: str, tmp_path: Path) -> None:
    config, _ = SHAPES[shape]
    if isinstance(config, Gemma3TextConfig):
        # llama.cpp takes this for granted, and has no name for anything else.
        config = Gemma3TextConfig(**config.to_dict() | {"query_pre_attn_scalar": config.head_dim})
    reference = save_model(tmp_path / "folder", config)
    path = tmp_path / "model.gguf"
    save_as_gguf(path, reference)
    compare_logits(path, reference)


@torch.inference_mode()
def compare_logits(path: Path, reference: Any, device: str = "cpu") -> None:
    loaded = load_model(path, dtype="fp32", device=device)
    vocab_size = loaded.config.vocab_size
    ids = torch.randint(vocab_size, (300,), generator=torch.Generator().manual_seed(5))
    cache = KVCache(loaded.config, len(ids), torch.float32, device=loaded.model.device)
    rows, start = [], 0
    for count in (90, 1, 1, 60, 7, 1, 100, 40):
        spans = [Span(start, count, list(range(1, cache.num_blocks)))]
        attend = PagedAttention(cache, spans)
        rows.append(loaded.model(ids[start : start + count].to(device), attend.positions, attend))
        start += count
    assert start == len(ids)
    logits = loaded.model.logits(torch.cat(rows)).cpu()
    torch.testing.assert_close(logits, reference(ids[None]).logits[0], atol=1e-3, rtol=1e-4)


def test_a_model_saved_in_half_precision_is_read_as_it_was_saved(tmp_path: Path) -> None:
    save_model(tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    _compare(load_engine(tmp_path, dtype="fp32"), reference)


def test_more_requests_than_memory_wait_or_start_again_and_lose_nothing(tmp_path: Path) -> None:
    reference = save_model(tmp_path)
    engine = load_engine(tmp_path, dtype="fp32", kv_tokens=1024, max_running=8)
    requests = [
        ask(f"{n} " * 60, id=str(n), sampling=SamplingParams(temperature=0, max_tokens=90)) for n in range(12)
    ]
    for request, answer in zip(requests, run(engine, *requests), strict=True):
        assert request.prompt is not None
        assert_greedy(reference, engine.encode_prompt(request), answer.token_ids)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_a_gguf_in_each_format_gives_the_text_transformers_gives(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(path, gguf.GGMLQuantizationType[kind])
    _compare(load_engine(path, dtype="fp32"), gguf_reference(path), prompts=PROMPTS[:3])


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_a_gguf_in_each_k_format_gives_the_text_transformers_gives(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(path, gguf.GGMLQuantizationType[kind], raw=True)
    _compare(load_engine(path, dtype="fp32"), gguf_reference(path), prompts=PROMPTS[:3])


def test_a_gguf_may_stretch_its_rotary_frequencies(tmp_path: Path) -> None:
    plain, stretched = tmp_path / "plain.gguf", tmp_path / "stretched.gguf"
    save_gguf(plain, gguf.GGMLQuantizationType.F32)
    save_gguf(stretched, gguf.GGMLQuantizationType.F32, rope_factor=4.0)
    reference = gguf_reference(plain)
    reference.model.rotary_emb.inv_freq /= 4.0
    _compare(load_engine(stretched, dtype="fp32"), reference, prompts=PROMPTS[:3])


def _compare(engine: TorchEngine, reference: Any, prompts: list[str] = PROMPTS) -> None:
    requests = [ask(prompt, id=str(n), sampling=LONG) for n, prompt in enumerate(prompts)]
    alone = [run(engine, request)[0] for request in requests]
    together = run(engine, *requests)
    for request, first, second in zip(requests, alone, together, strict=True):
        ids = engine.encode_prompt(request)
        assert len(first.token_ids) == len(second.token_ids) == 40
        for answered in {tuple(first.token_ids), tuple(second.token_ids)}:
            assert_greedy(reference, ids, list(answered))
