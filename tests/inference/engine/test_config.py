"""What a config.json says about windows and rotary positions is understood as transformers understands it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from inference.engine.config import ModelConfig
from inference.engine.config_folder import config_from_folder
from inference.engine.config_gguf import config_from_gguf
from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import read_gguf
from tests.inference.tiny_models import save_gguf

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 14,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
# As published on the hub, sizes apart: the fields that are missing are missing there too.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Mistral 7B v0.1": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 4096,
    },
    "Mistral 7B v0.3": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": None,
    },
    "a Mistral that says nothing": {"architectures": ["MistralForCausalLM"], "model_type": "mistral"},
    "Qwen2.5": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "sliding_window": 32768,
        "use_sliding_window": False,
        "max_window_layers": 21,
    },
    "Qwen2 with windows": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "sliding_window": 100,
        "use_sliding_window": True,
        "max_window_layers": 9,
    },
    "Qwen3 with YaRN": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 128,
        "rope_theta": 1000000,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    },
    "Gemma 3 1B": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    },
    "a Gemma 3 that says little": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}


def read(folder: Path, values: dict[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(values))
    return config_from_folder(folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_means_what_it_means_to_transformers(name: str, tmp_path: Path) -> None:
    ours = read(tmp_path, _SIZES | PUBLISHED[name])
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert ours.layer_windows == _windows(theirs)
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(theirs)
    assert ours.head_dim == shell.model.layers[0].self_attn.head_dim
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    ropes = theirs.rope_parameters
    for rope, said in (
        (ours.rope, ropes.get("full_attention", ropes)),
        (ours.local_rope, ropes.get("sliding_attention")),
    ):
        assert (rope is None) == (said is None)
        if rope is not None:
            assert (rope.theta, rope.kind) == (said["rope_theta"], said["rope_type"])
            assert rope.factor == said.get("factor", 1.0)


def _windows(config: PretrainedConfig) -> tuple[int | None, ...]:
    if config.model_type == "mistral":
        return (config.sliding_window,) * config.num_hidden_layers
    return tuple(
        config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types
    )


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("Mistral 7B v0.1", {"sliding_window": 0}, "a sliding window of 0 tokens, which is absurd"),
        ("Mistral 7B v0.1", {"sliding_window": -4}, "a sliding window of -4 tokens, which is absurd"),
        ("Mistral 7B v0.1", {"sliding_window": "wide"}, "a sliding window of 'wide' tokens"),
        ("Gemma 3 1B", {"sliding_window": None}, "says not how long it is"),
        ("Gemma 3 1B", {"sliding_window": [512]}, "lacks or garbles"),
        ("Gemma 3 1B", {"sliding_window_pattern": 0}, "sliding_window_pattern as 0"),
        (
            "Gemma 3 1B",
            {"layer_types": ["full_attention"] * 3},
            "has 14 layers, but says of 3 how far they see",
        ),
        ("Gemma 3 1B", {"layer_types": ["chunked_attention"] * 14}, "layers of the type 'chunked_attention'"),
        ("Gemma 3 1B", {"layer_types": 5}, "lacks or garbles"),
        ("Gemma 3 1B", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar as 0"),
        ("Gemma 3 1B", {"final_logit_softcapping": 30.0}, "final_logit_softcapping, which is not known"),
        (
            "Gemma 3 1B",
            {"use_bidirectional_attention": True},
            "use_bidirectional_attention, which is not known",
        ),
        ("Gemma 3 1B", {"text_config": [1]}, "lacks or garbles"),
        ("Qwen2.5", {"layer_types": ["sliding_attention"] * 14}, "says not how long it is"),
        ("Qwen2 with windows", {"max_window_layers": "most"}, "lacks or garbles"),
        ("Qwen2.5", {"num_hidden_layers": 10**12}, "num_layers as 1000000000000, which is absurd"),
    ],
)
def test_windows_and_scales_that_contradict_each_other_are_named(
    name: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=says):
        read(tmp_path, _SIZES | PUBLISHED[name] | changes)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, "'longrope'"),
        ({"rope.scaling.type": "yarn"}, "the factor of its rotary scaling as None"),
        ({"rope.scaling.factor": -1.0}, "the factor of its rotary scaling as -1.0"),
        ({"rope.freq_base": 0.5}, "rope_theta as 0.5"),
        ({"attention.sliding_window": -3}, "a sliding window of -3 tokens"),
        (
            {"attention.sliding_window": 8, "attention.sliding_window_pattern": [True] * 3},
            "has 1 layers, but",
        ),
        ({"attention.value_length": 32}, "heads of 64 but a attention.value_length of 32"),
        ({"rope.dimension_count": 32}, "heads of 64 but a rope.dimension_count of 32"),
        ({"block_count": 10**9}, "num_layers as 1000000000, which is absurd"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping, which is not known"),
    ],
)
def test_the_same_in_a_gguf_is_named_too(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", gguf.GGMLQuantizationType.F32)
    file = read_gguf(tmp_path / "model.gguf")
    file.metadata.update({f"llama.{key}": value for key, value in values.items()})
    with pytest.raises(ModelFileError, match=says):
        config_from_gguf(file)
