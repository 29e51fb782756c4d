"""The shape of a Llama-family Transformer, from config.json or a GGUF. Knows nothing of torch or weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import GgufFile
from inference.formats.json_file import read_json

_HF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
}
# What a number may be at most: an order of magnitude above the largest published model.
_LIMITS = {
    "vocab_size": 4_000_000,
    "hidden_size": 131_072,
    "intermediate_size": 1_048_576,
    "num_layers": 1_024,
    "num_heads": 1_024,
    "num_kv_heads": 1_024,
    "head_dim": 4_096,
    "context_length": 100_000_000,
}


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for longer contexts."""

    kind: str  # "linear" or "llama3"
    factor: float
    low_freq_factor: float = 1.0  # the rest: llama3 only, as in config.json
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides which tensors there are and how they are combined."""

    architecture: str  # "llama", "mistral" or "qwen2"
    vocab_size: int
    hidden_size: int
    intermediate_size: int  # of the feed-forward layer
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    context_length: int  # tokens, prompt and answer together
    tie_word_embeddings: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        head = self.num_heads + 2 * self.num_kv_heads
        attention = self.hidden_size * self.head_dim * (head + self.num_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tables = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return tables + self.num_layers * layer + self.hidden_size

    @property
    def kv_elements_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


def config_from_folder(folder: Path) -> ModelConfig:
    """From config.json. Raises ModelFileError."""
    path = folder / "config.json"
    values = read_json(path)
    named = values.get("architectures") or [f"model_type {values.get('model_type')!r}"]
    if not isinstance(named, list) or str(named[0]) not in _HF_ARCHITECTURES:
        raise ModelFileError(path, _unknown(str(named[0] if isinstance(named, list) else named)))
    architecture = _HF_ARCHITECTURES[str(named[0])]
    quantised = values.get("quantization_config")
    if quantised:
        raise ModelFileError(path, "describes quantised weights; use the model's full weights, or a GGUF.")
    if values.get("hidden_act", "silu") != "silu":
        raise ModelFileError(
            path, f"asks for the activation {values['hidden_act']!r}; only silu is known here."
        )
    context: Any = values.get("max_position_embeddings")
    if values.get("sliding_window") and values.get("use_sliding_window", architecture == "mistral"):
        # Within the window a sliding model is an ordinary one.
        context = min(context or values["sliding_window"], values["sliding_window"])
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    heads: Any = values.get("num_attention_heads")
    bias = bool(values.get("attention_bias", False))
    try:
        config = ModelConfig(
            architecture=architecture,
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            intermediate_size=values["intermediate_size"],
            num_layers=values["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=values.get("num_key_value_heads") or heads,
            head_dim=values.get("head_dim") or values["hidden_size"] // heads,
            rms_norm_eps=float(values.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
            context_length=context,
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
            qkv_bias=bias or architecture == "qwen2",
            output_bias=bias and architecture == "llama",
            mlp_bias=bool(values.get("mlp_bias", False)),
            rope_scaling=_rope_scaling(path, rope),
            bos_token_id=values.get("bos_token_id"),
            eos_token_ids=_ids(values.get("eos_token_id")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelFileError(path, f"lacks or garbles what a model needs: {error!r}.") from error
    return _checked(path, config)


def config_from_gguf(file: GgufFile) -> ModelConfig:
    """From a GGUF's metadata. Raises ModelFileError."""
    name = file.architecture
    if name not in ("llama", "qwen2"):
        raise ModelFileError(file.path, _unknown(name))
    values = {key.removeprefix(f"{name}."): value for key, value in file.metadata.items()}
    scaling = None
    kind = values.get("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise ModelFileError(
            file.path, f"stretches its rotary frequencies by {kind!r}, which is not known here."
        )
    try:
        if kind == "linear":
            scaling = RopeScaling("linear", float(values["rope.scaling.factor"]))
        heads = values["attention.head_count"]
        tensors = file.tensors
        config = ModelConfig(
            architecture=name,
            vocab_size=tensors["token_embd.weight"].shape[0],
            hidden_size=values["embedding_length"],
            intermediate_size=values["feed_forward_length"],
            num_layers=values["block_count"],
            num_heads=heads,
            num_kv_heads=values.get("attention.head_count_kv", heads),
            head_dim=values.get("attention.key_length") or values["embedding_length"] // heads,
            rms_norm_eps=float(values["attention.layer_norm_rms_epsilon"]),
            rope_theta=float(values.get("rope.freq_base", 10_000.0)),
            context_length=values["context_length"],
            tie_word_embeddings="output.weight" not in tensors,
            qkv_bias="blk.0.attn_q.bias" in tensors,
            output_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_down.bias" in tensors,
            rope_scaling=scaling,
            bos_token_id=values.get("tokenizer.ggml.bos_token_id"),
            eos_token_ids=_ids(values.get("tokenizer.ggml.eos_token_id")),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelFileError(file.path, f"lacks or garbles what a model needs: {error!r}.") from error
    rotated = values.get("rope.dimension_count", config.head_dim)
    if rotated != config.head_dim:
        raise ModelFileError(
            file.path, f"rotates {rotated} of {config.head_dim} dimensions, which is not known here."
        )
    return _checked(file.path, config)


def _unknown(name: str) -> str:
    known = ", ".join(sorted({*_HF_ARCHITECTURES.values()}))
    return f"has the architecture {name!r}, which is not known here (known: {known})."


def _ids(value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(id for id in listed if type(id) is int)


def _rope_scaling(path: Path, rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
    raise ModelFileError(
        path, f"stretches its rotary frequencies by {json.dumps(kind)}, which is not known here."
    )


def _checked(path: Path, config: ModelConfig) -> ModelConfig:
    for name, limit in _LIMITS.items():
        value = getattr(config, name)
        if type(value) is not int or not 0 < value <= limit:
            raise ModelFileError(path, f"declares {name} as {value!r}, which is absurd.")
    if config.num_heads % config.num_kv_heads or config.head_dim % 2:
        raise ModelFileError(
            path,
            f"has {config.num_heads} heads of {config.head_dim} over {config.num_kv_heads} key-value heads.",
        )
    return config
