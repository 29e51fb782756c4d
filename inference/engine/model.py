"""The Llama-family Transformer: embeddings, rotary attention, gated feed-forward. Knows nothing of text or sequences.

Tokens of all sequences come as one row of ids; which of them attend to which is the business of the `Attend`
the caller passes in. Follows arXiv:2302.13971 (Llama), 2104.09864 (rotary positions), 2305.13245 (grouped queries).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from inference.engine.config import ModelConfig, RopeScaling
from inference.engine.linear import Linear
from inference.engine.weights import TensorSource


class Attend(Protocol):
    """Scaled dot-product attention of one step, over whatever keys and values belong to each token."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """query [tokens, heads, head_dim], key and value [tokens, kv_heads, head_dim] -> as query."""


class RMSNorm(nn.Module):
    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotary_frequencies(config: ModelConfig, factors: torch.Tensor | None) -> torch.Tensor:
    """Radians a position turns each pair of dimensions by: fp32 [head_dim / 2]."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponent
    if factors is not None:
        frequencies = frequencies / factors.float()
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    return _llama3_frequencies(frequencies, scaling)


def _llama3_frequencies(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Long wavelengths are stretched, short ones kept, those between blended, as Llama 3.1 was trained."""
    wavelength = 2 * math.pi / frequencies
    blend = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blend = blend.clamp(0, 1)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates x [tokens, heads, head_dim] by the angles of each token, [tokens, 1, head_dim / 2] in fp32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Layer(nn.Module):
    """One block: attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, config: ModelConfig, index: int, source: TensorSource, kind: str) -> None:
        super().__init__()
        self.index = index
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        hidden, inner = config.hidden_size, config.intermediate_size
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        prefix = f"model.layers.{index}."

        def linear(part: str, sizes: dict[str, int], inputs: int, bias: bool) -> Linear:
            names = {f"{prefix}{part}.{name}_proj": rows for name, rows in sizes.items()}
            return Linear.load(source, names, inputs, bias=bias, kind=kind)

        def norm(name: str) -> RMSNorm:
            weight = source.get(f"{prefix}{name}.weight", (hidden,))
            return RMSNorm(weight.to(Linear.activation_dtype(kind)), config.rms_norm_eps)

        self.input_layernorm = norm("input_layernorm")
        self.qkv_proj = linear("self_attn", {"q": queries, "k": keys, "v": keys}, hidden, config.qkv_bias)
        self.o_proj = linear("self_attn", {"o": hidden}, queries, config.output_bias)
        self.post_attention_layernorm = norm("post_attention_layernorm")
        self.gate_up_proj = linear("mlp", {"gate": inner, "up": inner}, hidden, config.mlp_bias)
        self.down_proj = linear("mlp", {"down": hidden}, inner, config.mlp_bias)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend) -> torch.Tensor:
        tokens = x.shape[0]
        qkv = self.qkv_proj(self.input_layernorm(x)).view(
            tokens, self.heads + 2 * self.kv_heads, self.head_dim
        )
        rotated = rotate(qkv[:, : self.heads + self.kv_heads], cos, sin)
        query, key = rotated.split([self.heads, self.kv_heads], dim=1)
        attended = attend(self.index, query, key, qkv[:, self.heads + self.kv_heads :])
        x = x + self.o_proj(attended.reshape(tokens, self.heads * self.head_dim))
        gate, up = self.gate_up_proj(self.post_attention_layernorm(x)).chunk(2, dim=-1)
        return x + self.down_proj(F.silu(gate) * up)


class LlamaModel(nn.Module):
    """The whole decoder. `kind` is "fp32", "bf16" or "int8" (weights; activations are then bf16)."""

    frequencies: torch.Tensor

    def __init__(self, config: ModelConfig, source: TensorSource, kind: str) -> None:
        super().__init__()
        self.config = config
        dtype = Linear.activation_dtype(kind)
        hidden = config.hidden_size
        table = source.get("model.embed_tokens.weight", (config.vocab_size, hidden))
        self.embed_tokens = nn.Parameter(table.to(dtype), requires_grad=False)
        self.layers = nn.ModuleList(Layer(config, index, source, kind) for index in range(config.num_layers))
        self.norm = RMSNorm(source.get("model.norm.weight", (hidden,)).to(dtype), config.rms_norm_eps)
        if config.tie_word_embeddings:
            self.lm_head = Linear.from_weight(self.embed_tokens.data if kind != "int8" else table, None, kind)
        else:
            self.lm_head = Linear.load(source, {"lm_head": config.vocab_size}, hidden, bias=False, kind=kind)
        self.register_buffer(
            "frequencies", rotary_frequencies(config, source.rope_factors()), persistent=False
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.dtype

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """ids, positions int64 [tokens] -> the last hidden states [tokens, hidden_size], normed."""
        angles = torch.outer(positions.float(), self.frequencies)
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        x = F.embedding(ids, self.embed_tokens)
        for layer in self.layers:
            x = layer(x, cos, sin, attend)
        normed: torch.Tensor = self.norm(x)
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [rows, hidden_size] -> fp32 [rows, vocab_size]."""
        return self.lm_head(hidden).float()
