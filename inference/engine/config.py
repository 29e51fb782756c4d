"""The shape of a decoder-only Transformer. Knows nothing of torch, of weights, or of the files it is read from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.formats.errors import ModelFileError

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
# How an architecture differs from Llama in what no file says; file formats add what they know.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"qk_norm": True},
    "gemma3": {"qk_norm": True, "post_norms": True, "activation": "gelu_tanh"},
}


@dataclass(frozen=True)
class Rope:
    """Rotary positions (arXiv:2104.09864), perhaps stretched for contexts longer than the first training's."""

    theta: float = 10_000.0
    kind: str = "default"  # or "linear", "llama3" or "yarn"
    factor: float = 1.0
    original_context: int = 0  # tokens; this and what follows: llama3 and yarn only, named as in config.json
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0  # what the rotated queries and keys are multiplied by


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides which tensors there are and how they are combined."""

    architecture: str  # a key of ARCHITECTURES
    vocab_size: int
    hidden_size: int
    intermediate_size: int  # of the feed-forward layer
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    context_length: int  # tokens, prompt and answer together
    tie_word_embeddings: bool
    layer_windows: tuple[
        int | None, ...
    ]  # of how many tokens, itself included, a token sees the last; None: all
    rope: Rope
    local_rope: Rope | None = None  # of the layers that have a window, where it is another
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    activation: str = "silu"  # or "gelu_tanh"
    qk_norm: bool = False  # each head's queries and keys are normed before they are rotated
    post_norms: bool = False  # what attention and feed-forward add to the stream is normed too
    norm_offset: float = 0.0  # what has to be added to the stored weights of norms
    embedding_scale: float = 1.0
    query_scale: float = 1.0  # beyond 1 / sqrt(head_dim); other than 1 only with qk_norm
    eos_token_ids: tuple[int, ...] = ()

    @property
    def kv_elements_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


def yarn_attention_factor(factor: float, mscale: float = 0.0, mscale_all_dim: float = 0.0) -> float:
    """How much sharper attention has to be over the longer context: arXiv:2309.00071, and DeepSeek's two scales."""

    def sharper(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    return sharper(mscale) / sharper(mscale_all_dim) if mscale and mscale_all_dim else sharper(1.0)


def unknown_architecture(path: Path, name: str) -> ModelFileError:
    known = ", ".join(sorted(ARCHITECTURES))
    return ModelFileError(path, f"has the architecture {name!r}, which is not known here (known: {known}).")


def token_ids(value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(id for id in listed if type(id) is int)


def checked_size(path: Path, name: str, value: Any) -> int:
    """`value`, if it is a number such a field may have. Raises ModelFileError."""
    if type(value) is not int or not 0 < value <= _LIMITS[name]:
        raise ModelFileError(path, f"declares {name} as {value!r}, which is absurd.")
    return value


def checked_number(path: Path, name: str, value: Any, *, above: float = 0.0) -> float:
    """`value`, if it is a finite number greater than `above`. Raises ModelFileError."""
    number = float(value) if type(value) in (int, float) else math.nan
    if not (math.isfinite(number) and number > above):
        raise ModelFileError(path, f"gives {name} as {value!r}, which is no number above {above:g}.")
    return number


def checked(path: Path, config: ModelConfig) -> ModelConfig:
    """`config`, if a model can have that shape. Raises ModelFileError."""
    for name in _LIMITS:
        checked_size(path, name, getattr(config, name))
    checked_number(path, "rms_norm_eps", config.rms_norm_eps)
    if config.num_heads % config.num_kv_heads or config.head_dim % 2:
        raise ModelFileError(
            path,
            f"has {config.num_heads} heads of {config.head_dim} over {config.num_kv_heads} key-value heads.",
        )
    if len(config.layer_windows) != config.num_layers:
        raise ModelFileError(
            path, f"has {config.num_layers} layers, but says of {len(config.layer_windows)} how far they see."
        )
    for window in {*config.layer_windows} - {None}:
        if type(window) is not int or window <= 0:
            raise ModelFileError(path, f"has a sliding window of {window!r} tokens, which is absurd.")
    for rope in (config.rope, config.local_rope):
        if rope is not None:
            _check_rope(path, rope)
    return config


def _check_rope(path: Path, rope: Rope) -> None:
    checked_number(path, "rope_theta", rope.theta, above=1.0)
    if rope.kind == "default":
        return
    for name in ("factor", "attention_factor"):
        checked_number(path, f"the {name} of its rotary scaling", getattr(rope, name))
    if rope.kind == "linear":
        return
    if not 0 < rope.original_context <= _LIMITS["context_length"]:
        raise ModelFileError(
            path, f"stretches its rotary positions from {rope.original_context} tokens, which is absurd."
        )
    names = ("low_freq_factor", "high_freq_factor") if rope.kind == "llama3" else ("beta_slow", "beta_fast")
    low, high = (
        checked_number(path, f"the {name} of its rotary scaling", getattr(rope, name)) for name in names
    )
    if low >= high:
        raise ModelFileError(path, f"has a {names[0]} of {low:g}, not below its {names[1]} of {high:g}.")
