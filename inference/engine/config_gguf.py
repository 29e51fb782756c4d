"""Reads a model's shape from the metadata of a GGUF. Knows nothing of torch or weights.

Where the metadata is silent, the meaning is llama.cpp's: src/models/gemma3.cpp and its neighbours.
"""

from __future__ import annotations

import math
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
from inference.formats.gguf_file import GgufFile

# Mistral's models are "llama" to llama.cpp.
_NAMES = ("llama", "qwen2", "qwen3", "gemma3")
# The one Gemma 3 whose queries are not scaled by its head_dim; nothing but its depth tells it in a GGUF.
_GEMMA3_27B_LAYERS = 62


def config_from_gguf(file: GgufFile) -> ModelConfig:
    """From a GGUF's metadata. Raises ModelFileError."""
    name = file.architecture
    if name not in _NAMES:
        raise unknown_architecture(file.path, name)
    values = {key.removeprefix(f"{name}."): value for key, value in file.metadata.items()}
    try:
        return checked(file.path, _config(file, name, values))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ModelFileError(file.path, f"lacks or garbles what a model needs: {error!r}.") from error


def _config(file: GgufFile, name: str, values: dict[str, Any]) -> ModelConfig:
    tensors = file.tensors
    layers = checked_size(file.path, "num_layers", values["block_count"])
    hidden, heads = values["embedding_length"], values["attention.head_count"]
    head_dim = values.get("attention.key_length") or hidden // heads
    for key in ("rope.dimension_count", "attention.value_length"):
        if values.get(key, head_dim) != head_dim:
            raise ModelFileError(
                file.path, f"has heads of {head_dim} but a {key} of {values[key]}, which is not known here."
            )
    if values.get("final_logit_softcapping"):
        raise ModelFileError(file.path, "asks for final_logit_softcapping, which is not known here.")
    features: dict[str, Any] = dict(ARCHITECTURES[name])
    local_rope = None
    if name == "gemma3":
        features["embedding_scale"] = math.sqrt(hidden)
        features["query_scale"] = (
            math.sqrt(head_dim * heads / hidden) if layers == _GEMMA3_27B_LAYERS else 1.0
        )
        local_rope = Rope(values.get("rope.freq_base_swa", Rope.theta))
    return ModelConfig(
        architecture=name,
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=hidden,
        intermediate_size=values["feed_forward_length"],
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=values.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_norm_eps=float(values["attention.layer_norm_rms_epsilon"]),
        context_length=values["context_length"],
        tie_word_embeddings="output.weight" not in tensors,
        layer_windows=_layer_windows(name, layers, values),
        rope=_rope(file, values),
        local_rope=local_rope,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_down.bias" in tensors,
        eos_token_ids=token_ids(values.get("tokenizer.ggml.eos_token_id")),
        **features,
    )


def _layer_windows(name: str, layers: int, values: dict[str, Any]) -> tuple[int | None, ...]:
    window = values.get("attention.sliding_window") or None  # 0 is how converters say that there is none
    # Every pattern-th layer sees everything, or those of which a list says so; 0 is none of them.
    pattern = values.get("attention.sliding_window_pattern", 6 if name == "gemma3" else 0)
    if isinstance(pattern, list):
        return tuple(window if slides else None for slides in pattern)
    return tuple(None if pattern and (layer + 1) % pattern == 0 else window for layer in range(layers))


def _rope(file: GgufFile, values: dict[str, Any]) -> Rope:
    """Llama 3's scaling is no metadata but a tensor of its own: TensorSource.rope_factors."""
    theta = values.get("rope.freq_base", Rope.theta)
    kind = values.get("rope.scaling.type", "linear" if "rope.scaling.factor" in values else "none")
    if kind == "none":
        return Rope(theta)
    if kind not in ("linear", "yarn") or values.get("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
        raise ModelFileError(
            file.path, f"stretches its rotary positions by {kind!r} in a way that is not known here."
        )
    factor = checked_number(file.path, "the factor of its rotary scaling", values.get("rope.scaling.factor"))
    if kind == "linear":
        return Rope(theta, kind, factor)
    sharper = values.get("rope.scaling.yarn_attn_factor") or yarn_attention_factor(
        factor, 1.0, values.get("rope.scaling.yarn_log_multiplier", 0.0)
    )
    return Rope(
        theta,
        kind,
        factor,
        values.get("rope.scaling.original_context_length", values["context_length"]),
        beta_fast=float(values.get("rope.scaling.yarn_beta_fast", Rope.beta_fast)),
        beta_slow=float(values.get("rope.scaling.yarn_beta_slow", Rope.beta_slow)),
        attention_factor=sharper * values.get("rope.scaling.attn_factor", 1.0),
    )
