"""Reads a model's shape from the config.json of a Hugging Face folder. Knows nothing of torch or weights.

Where a field is missing, it has the default `transformers` gives it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from inference.engine.config import (
    ARCHITECTURES,
    ModelConfig,
    Rope,
    checked,
    checked_number,
    checked_size,
    token_ids,
    unknown_architecture,
    yarn_attention_factor,
)
from inference.formats.errors import ModelFileError
from inference.formats.json_file import read_json

_NAMES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4096},
    "qwen2": {"sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"sliding_window": 4096, "max_window_layers": 28, "head_dim": 128},
    # The text part of a Gemma 3 that also sees lists only what differs from these.
    "gemma3": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
}


def config_from_folder(folder: Path) -> ModelConfig:
    """From config.json. Raises ModelFileError."""
    path = folder / "config.json"
    values = read_json(path)
    named = values.get("architectures") or [f"model_type {values.get('model_type')!r}"]
    if not isinstance(named, list) or str(named[0]) not in _NAMES:
        raise unknown_architecture(path, str(named[0] if isinstance(named, list) else named))
    architecture = _NAMES[str(named[0])]
    try:
        values = _DEFAULTS.get(architecture, {}) | values | (values.get("text_config") or {})
        _refuse_unknown(path, values)
        return checked(path, _config(path, architecture, values))
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise ModelFileError(path, f"lacks or garbles what a model needs: {error!r}.") from error


def _config(path: Path, architecture: str, values: dict[str, Any]) -> ModelConfig:
    layers = checked_size(path, "num_layers", values.get("num_hidden_layers"))
    heads: Any = values.get("num_attention_heads")
    context: Any = values.get("max_position_embeddings")
    head_dim = values.get("head_dim") or values["hidden_size"] // heads
    bias = bool(values.get("attention_bias", False)) and architecture != "mistral"
    features: dict[str, Any] = dict(ARCHITECTURES[architecture])
    if architecture == "gemma3":
        scalar = checked_number(path, "query_pre_attn_scalar", values["query_pre_attn_scalar"])
        features["norm_offset"] = 1.0
        features["embedding_scale"] = math.sqrt(values["hidden_size"])
        features["query_scale"] = math.sqrt(head_dim / scalar)
    activation = values.get("hidden_activation") or values.get("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ModelFileError(
            path, f"asks for the activation {activation!r}, which is not known here (known: {known})."
        )
    rope, local_rope = _ropes(path, values)
    return ModelConfig(
        architecture=architecture,
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        rms_norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        context_length=context,
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        layer_windows=_layer_windows(path, architecture, layers, values),
        rope=rope,
        local_rope=local_rope,
        qkv_bias=bias or architecture == "qwen2",
        output_bias=bias and architecture != "qwen2",
        mlp_bias=bool(values.get("mlp_bias", False)) and architecture == "llama",
        eos_token_ids=token_ids(values.get("eos_token_id")),
        **features | {"activation": _ACTIVATIONS[activation]},
    )


def _refuse_unknown(path: Path, values: dict[str, Any]) -> None:
    if values.get("quantization_config"):
        raise ModelFileError(path, "describes quantised weights; use the model's full weights, or a GGUF.")
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if values.get(name):
            raise ModelFileError(path, f"asks for {name}, which is not known here.")


def _layer_windows(
    path: Path, architecture: str, layers: int, values: dict[str, Any]
) -> tuple[int | None, ...]:
    window = values.get("sliding_window")
    if architecture == "mistral":
        return (window,) * layers
    if architecture == "llama" or (architecture != "gemma3" and not values.get("use_sliding_window")):
        window = None
    types = values.get("layer_types")
    if types is None and architecture == "gemma3":
        pattern = checked_number(path, "sliding_window_pattern", values["sliding_window_pattern"])
        sliding = [bool((layer + 1) % pattern) for layer in range(layers)]
    elif types is None:
        sliding = [window is not None and layer >= values["max_window_layers"] for layer in range(layers)]
    else:
        unknown = {*types} - {"sliding_attention", "full_attention"}
        if unknown:
            raise ModelFileError(path, f"has layers of the type {unknown.pop()!r}, which is not known here.")
        sliding = [kind == "sliding_attention" for kind in types]
    if any(sliding) and window is None:
        raise ModelFileError(path, "has layers with a sliding window, but says not how long it is.")
    return tuple(window if slides else None for slides in sliding)


def _ropes(path: Path, values: dict[str, Any]) -> tuple[Rope, Rope | None]:
    """Of all layers, and of those with a window where theirs is another."""
    given = values.get("rope_parameters") or values.get("rope_scaling") or {}
    local = given.get("sliding_attention")
    if local is None and "rope_local_base_freq" in values:
        local = {"rope_theta": values["rope_local_base_freq"]}
    full = given.get("full_attention", given)
    return _rope(path, full, values), None if local is None else _rope(path, local, values)


def _rope(path: Path, given: dict[str, Any], values: dict[str, Any]) -> Rope:
    kind = given.get("rope_type") or given.get("type") or "default"
    theta = given.get("rope_theta") or values.get("rope_theta") or Rope.theta
    if given.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelFileError(path, "rotates a part of each head only, which is not known here.")
    if kind == "default":
        return Rope(theta)
    if kind not in ("linear", "llama3", "yarn"):
        raise ModelFileError(
            path, f"stretches its rotary positions by {json.dumps(kind)}, which is not known here."
        )
    factor = checked_number(path, "the factor of its rotary scaling", given.get("factor"))
    if kind == "linear":
        return Rope(theta, kind, factor)
    original: Any = (
        values.get("original_max_position_embeddings")
        or given.get("original_max_position_embeddings")
        or values.get("max_position_embeddings")
    )
    if kind == "llama3":
        return Rope(
            theta, kind, factor, original, float(given["low_freq_factor"]), float(given["high_freq_factor"])
        )
    return Rope(
        theta,
        kind,
        factor,
        original,
        beta_fast=float(given.get("beta_fast") or Rope.beta_fast),
        beta_slow=float(given.get("beta_slow") or Rope.beta_slow),
        truncate=bool(given.get("truncate", True)),
        attention_factor=given.get("attention_factor")
        or yarn_attention_factor(factor, given.get("mscale") or 0.0, given.get("mscale_all_dim") or 0.0),
    )
