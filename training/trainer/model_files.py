"""A whole model in the format it came in: the engine's stacked matrices taken apart. Knows nothing of training."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from inference.engine.adapter_file import PRODUCTS, module_shapes
from inference.engine.config import ModelConfig
from inference.engine.model import Layer, LlamaModel, QKNorm
from inference.formats.classifier_card import SCORE, SCORE_FILE
from inference.formats.model_files import find_model
from training.trainer.gguf_model import gguf_file


def model_files(
    model: LlamaModel,
    base: Path,
    dtype: torch.dtype,
    scratch: Path,
    score: torch.Tensor | None = None,
) -> dict[str, bytes]:
    """The weights in `dtype`, beside the configuration and vocabulary of the model it was begun from, in its format.

    The head of a classifier, `score`, stays as it was learnt.
    """
    found = find_model(base)
    files = {file.name: file.read_bytes() for file in found.content if file not in found.weights}
    files.pop("model.safetensors.index.json", None)
    if found.gguf is not None:
        defaults = found.folder / "generation_config.json"
        if defaults.is_file():
            files[defaults.name] = defaults.read_bytes()
        files["model.gguf"] = gguf_file(_tensors(model), model.config, found.gguf, dtype, scratch)
        if score is not None:
            files[SCORE_FILE] = save({SCORE: score.detach().cpu()})
        return files
    # Safetensors refuses tensors that share memory, as the stacked ones do.
    tensors = {name: t.detach().to("cpu", dtype).contiguous().clone() for name, t in _tensors(model).items()}
    if score is not None:
        tensors[SCORE] = score.detach().cpu()
    files["model.safetensors"] = save(tensors, {"format": "pt"})
    return files


def _tensors(model: LlamaModel) -> dict[str, torch.Tensor]:
    config = model.config
    tensors = {
        "model.embed_tokens.weight": model.embed_tokens,
        "model.norm.weight": _norm(model.norm, config),
    }
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = model.lm_head.weight
    for layer in model.layers:
        assert isinstance(layer, Layer)
        prefix = f"model.layers.{layer.index}"
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in _layer(layer, config).items()}
    return tensors


def _layer(layer: Layer, config: ModelConfig) -> dict[str, torch.Tensor]:
    shapes = module_shapes(config)
    tensors = {}
    for product, modules in PRODUCTS.items():
        linear = getattr(layer, product)
        part = "self_attn" if product in ("qkv_proj", "o_proj") else "mlp"
        rows = [shapes[module][0] for module in modules]
        for kind in ("weight", "bias"):
            whole = getattr(linear, kind)
            if whole is not None:
                for module, piece in zip(modules, whole.split(rows), strict=True):
                    tensors[f"{part}.{module}.{kind}"] = piece
    tensors["input_layernorm.weight"] = _norm(layer.input_layernorm, config)
    before = _norm(layer.pre_feedforward_layernorm, config)
    if config.post_norms:
        tensors["post_attention_layernorm.weight"] = _norm(layer.attention_norm, config)
        tensors["pre_feedforward_layernorm.weight"] = before
        tensors["post_feedforward_layernorm.weight"] = _norm(layer.feedforward_norm, config)
    else:
        tensors["post_attention_layernorm.weight"] = before
    if isinstance(layer.qk_norm, QKNorm):
        query, key = layer.qk_norm.weight[0] / config.query_scale, layer.qk_norm.weight[config.num_heads]
        tensors["self_attn.q_norm.weight"] = query - config.norm_offset
        tensors["self_attn.k_norm.weight"] = key - config.norm_offset
    return tensors


def _norm(norm: torch.nn.Module, config: ModelConfig) -> torch.Tensor:
    weight: torch.Tensor = norm.weight  # type: ignore[assignment]
    return weight - config.norm_offset
