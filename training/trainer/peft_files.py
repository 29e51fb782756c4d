"""An adapter in PEFT's files: adapter_config.json and adapter_model.safetensors. Knows nothing of training."""

from __future__ import annotations

import json

import msgspec
import torch
from safetensors.torch import load, save

from inference.formats.classifier_card import ADAPTERS_SCORE
from training.trainer.failures import TrainingFailure
from training.trainer.lora import LoraAdapter
from training.trainer.spec import Lora

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def adapter_files(
    adapter: LoraAdapter, lora: Lora, base: str, score: torch.Tensor | None = None
) -> dict[str, bytes]:
    """`base` is what the model is called; with a `score` it is an adapter for sequence classification."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if score is None else "SEQ_CLS",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True if lora.initialisation == "default" else lora.initialisation,
        "target_modules": sorted(lora.targets),
        "modules_to_save": None if score is None else ["score"],
    }
    tensors = {
        _stored_name(name, factor): parameter.detach().cpu().contiguous()
        for factor, parameters in (("A", adapter.a), ("B", adapter.b))
        for name, parameter in parameters.items()
    }
    if score is not None:
        tensors[ADAPTERS_SCORE] = score.detach().cpu().contiguous()
    return {
        "adapter_config.json": json.dumps(config, indent=1).encode(),
        "adapter_model.safetensors": save(tensors),
    }


def read_lora(data: bytes) -> Lora:
    """What an adapter_config.json of ours says of the adapter. Raises msgspec.DecodeError."""
    stored = msgspec.json.decode(data, type=_Stored)
    return Lora(r=stored.r, alpha=stored.lora_alpha, rslora=stored.use_rslora, targets=stored.target_modules)


def restore_adapter(adapter: LoraAdapter, data: bytes, score: torch.Tensor | None = None) -> None:
    """Puts the factors of an adapter_model.safetensors, and a head, into place. Raises TrainingFailure `checkpoint`."""
    stored = load(data)
    places: dict[str, torch.Tensor] = {
        _stored_name(name, factor): parameter
        for factor, parameters in (("A", adapter.a), ("B", adapter.b))
        for name, parameter in parameters.items()
    }
    if score is not None:
        places[ADAPTERS_SCORE] = score
    with torch.no_grad():
        for name, place in places.items():
            found = stored.get(name)
            if found is None or found.shape != place.shape:
                raise TrainingFailure("checkpoint", "The checkpoint's adapter is of another shape.")
            place.copy_(found)


class _Stored(msgspec.Struct):
    r: int
    lora_alpha: float
    use_rslora: bool
    target_modules: list[str]


def _stored_name(name: str, factor: str) -> str:
    layer, module = name.split("_", 1)
    part = "self_attn" if module in _ATTENTION else "mlp"
    return f"base_model.model.model.layers.{layer}.{part}.{module}.lora_{factor}.weight"
