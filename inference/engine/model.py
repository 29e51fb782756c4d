"""The decoder-only Transformer: embeddings, rotary attention, gated feed-forward. Knows nothing of text or sequences.

Tokens of all sequences come as one row of ids; which of them attend to which is the business of the `Attend`
the caller passes in. Follows arXiv:2302.13971 (Llama), 2104.09864 (rotary positions), 2305.13245 (grouped queries).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from inference.engine.calibration import Calibration
from inference.engine.config import ModelConfig
from inference.engine.linear import Linear
from inference.engine.rope import RotaryEmbedding, rotate
from inference.engine.weights import TensorSource

# Cosines and sines of the angles of each token, of each of the model's rotary embeddings.
Turns = list[tuple[torch.Tensor, torch.Tensor]]


class Attend(Protocol):
    """Scaled dot-product attention of one step, over whatever keys and values belong to each token."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """query [tokens, heads, head_dim], key and value [tokens, kv_heads, head_dim] -> as query."""


class Adapt(Protocol):
    """What the adapters of one step add to the base model's matrix products."""

    def __call__(self, layer: int, product: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x [tokens, inputs] -> y [tokens, outputs], the base's product, with what each row's adapter adds."""


class RMSNorm(nn.Module):
    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class QKNorm(nn.Module):
    """Norms the queries and keys of each head, as Qwen3 and Gemma 3 do; all of them in one go."""

    def __init__(self, config: ModelConfig, query: torch.Tensor, key: torch.Tensor) -> None:
        """query and key are the stored weights, [head_dim]."""
        super().__init__()
        # What queries are scaled by costs nothing here, and attention stays the same for all models.
        rows = [query * config.query_scale] * config.num_heads + [key] * config.num_kv_heads
        self.weight = nn.Parameter(torch.stack(rows), requires_grad=False)
        self.eps = config.rms_norm_eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, heads + kv_heads, head_dim] -> the same."""
        return F.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight


def _norm_weight(config: ModelConfig, source: TensorSource, name: str, size: int, kind: str) -> torch.Tensor:
    weight = source.get(f"{name}.weight", (size,)).float() + config.norm_offset
    return weight.to(Linear.activation_dtype(kind))


class Layer(nn.Module):
    """One block: attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(
        self, config: ModelConfig, index: int, source: TensorSource, kind: str, *, trainable: bool = False
    ) -> None:
        super().__init__()
        self.index = index
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.activation = config.activation
        # Which of the model's rotary embeddings is this layer's.
        self.rotary = 1 if config.local_rope and config.layer_windows[index] else 0
        hidden, inner = config.hidden_size, config.intermediate_size
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        prefix = f"model.layers.{index}."

        def linear(part: str, sizes: dict[str, int], inputs: int, bias: bool) -> Linear:
            names = {f"{prefix}{part}.{name}_proj": rows for name, rows in sizes.items()}
            return Linear.load(source, names, inputs, bias=bias, kind=kind, trainable=trainable)

        def norm_weight(name: str, size: int) -> torch.Tensor:
            return _norm_weight(config, source, f"{prefix}{name}", size, kind)

        def norm(name: str) -> RMSNorm:
            return RMSNorm(norm_weight(name, hidden), config.rms_norm_eps)

        self.input_layernorm = norm("input_layernorm")
        self.qkv_proj = linear("self_attn", {"q": queries, "k": keys, "v": keys}, hidden, config.qkv_bias)
        self.o_proj = linear("self_attn", {"o": hidden}, queries, config.output_bias)
        self.qk_norm: nn.Module = nn.Identity()
        if config.qk_norm:
            weights = [norm_weight(f"self_attn.{name}_norm", self.head_dim) for name in ("q", "k")]
            self.qk_norm = QKNorm(config, *weights)
        self.attention_norm: nn.Module = nn.Identity()
        self.feedforward_norm: nn.Module = nn.Identity()
        if config.post_norms:
            self.attention_norm = norm("post_attention_layernorm")
            self.pre_feedforward_layernorm = norm("pre_feedforward_layernorm")
            self.feedforward_norm = norm("post_feedforward_layernorm")
        else:  # Llama's name says where it is, Gemma's what it norms
            self.pre_feedforward_layernorm = norm("post_attention_layernorm")
        self.gate_up_proj = linear("mlp", {"gate": inner, "up": inner}, hidden, config.mlp_bias)
        self.down_proj = linear("mlp", {"down": hidden}, inner, config.mlp_bias)

    def forward(
        self, x: torch.Tensor, turns: Turns, attend: Attend, adapt: Adapt | None = None
    ) -> torch.Tensor:
        tokens = x.shape[0]
        cos, sin = turns[self.rotary]

        qkv = self.product("qkv_proj", self.input_layernorm(x), adapt).view(
            tokens, self.heads + 2 * self.kv_heads, self.head_dim
        )
        rotated = rotate(self.qk_norm(qkv[:, : self.heads + self.kv_heads]), cos, sin)
        query, key = rotated.split([self.heads, self.kv_heads], dim=1)
        attended = attend(self.index, query, key, qkv[:, self.heads + self.kv_heads :])
        x = x + self.attention_norm(self.product("o_proj", attended.reshape(tokens, -1), adapt))
        gate, up = self.product("gate_up_proj", self.pre_feedforward_layernorm(x), adapt).chunk(2, dim=-1)
        gate = F.silu(gate) if self.activation == "silu" else F.gelu(gate, approximate="tanh")
        return x + self.feedforward_norm(self.product("down_proj", gate * up, adapt))

    def product(self, name: str, x: torch.Tensor, adapt: Adapt | None) -> torch.Tensor:
        """One of the layer's four matrix products, with what adapters add to it."""
        y: torch.Tensor = getattr(self, name)(x)
        return y if adapt is None else adapt(self.index, name, x, y)


class RunLayer(Protocol):
    """A layer's forward pass."""

    def __call__(self, layer: Layer, x: torch.Tensor, turns: Turns) -> torch.Tensor:
        """x [tokens, hidden_size] -> the same."""


class LlamaModel(nn.Module):
    """The whole decoder, of Llama or of who varies it: what differs is a field of its config, never its name.

    `kind` is "fp32", "bf16" or "int8" (products; all else is then bf16), which `calibration_ids`, some tokens of any
    text, are needed for. A `trainable` one computes with weights as they are stored, so that gradients can be taken.
    """

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        kind: str,
        calibration_ids: list[int],
        *,
        trainable: bool = False,
    ) -> None:
        """It is where the source's tensors are."""
        super().__init__()
        self.config, self.kind = config, kind
        dtype = Linear.activation_dtype(kind)
        hidden = config.hidden_size
        table = source.get("model.embed_tokens.weight", (config.vocab_size, hidden))
        self.embed_tokens = nn.Parameter(table.to(dtype), requires_grad=False)
        factors = source.rope_factors()
        ropes = [config.rope, config.local_rope] if config.local_rope else [config.rope]
        self.rotary_embeddings = nn.ModuleList(
            RotaryEmbedding(rope, config.head_dim, factors).to(table.device) for rope in ropes
        )
        calibration = None
        if kind == "int8":
            ids = torch.tensor(calibration_ids, device=table.device)
            turns = self._turns(torch.arange(len(ids), device=table.device))
            calibration = Calibration(config, self._embed(ids), turns)
        self.layers = nn.ModuleList()
        for index in range(config.num_layers):
            layer = Layer(config, index, source, kind, trainable=trainable)
            if calibration is not None:
                calibration.quantise_layer(layer)
            self.layers.append(layer)
        self.norm = RMSNorm(_norm_weight(config, source, "model.norm", hidden, kind), config.rms_norm_eps)
        if config.tie_word_embeddings:
            self.lm_head = Linear.from_weight(self.embed_tokens.data, None, kind, trainable=trainable)
            if trainable:
                self.lm_head.weight = self.embed_tokens
        else:
            self.lm_head = Linear.load(
                source, {"lm_head": config.vocab_size}, hidden, bias=False, kind=kind, trainable=trainable
            )
        if calibration is not None:
            calibration.quantise_head(self.norm, self.lm_head)

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.dtype

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.device

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        adapt: Adapt | None = None,
        run: RunLayer | None = None,
    ) -> torch.Tensor:
        """ids, positions int64 [tokens] -> the last hidden states [tokens, hidden_size], normed.

        `run` computes a layer in another way than the layer itself would.
        """
        turns = self._turns(positions)
        x = self._embed(ids)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            x = layer(x, turns, attend, adapt) if run is None else run(layer, x, turns)
        normed: torch.Tensor = self.norm(x)
        return normed

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.embed_tokens) * self.config.embedding_scale

    def _turns(self, positions: torch.Tensor) -> Turns:
        return [rotary(positions) for rotary in self.rotary_embeddings]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [rows, hidden_size] -> fp32 [rows, vocab_size]."""
        return self.lm_head(hidden).float()
