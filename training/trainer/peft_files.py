"""An adapter in PEFT's files: adapter_config.json and adapter_model.safetensors. Knows nothing of training."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load, save

from training.trainer.failures import TrainingFailure
from training.trainer.lora import LoraAdapter
from training.trainer.spec import Lora

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def adapter_files(adapter: LoraAdapter, lora: Lora, base: str) -> dict[str, bytes]:
    """`base` is what the model is called."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": sorted(lora.targets),
        "modules_to_save": None,
    }
    tensors = {
        _stored_name(name, factor): parameter.detach().cpu().contiguous()
        for factor, parameters in (("A", adapter.a), ("B", adapter.b))
        for name, parameter in parameters.items()
    }
    return {
        "adapter_config.json": json.dumps(config, indent=1).encode(),
        "adapter_model.safetensors": save(tensors),
    }


def restore_adapter(adapter: LoraAdapter, data: bytes) -> None:
    """Puts the factors of an adapter_model.safetensors into place. Raises TrainingFailure `checkpoint`."""
    stored = load(data)
    with torch.no_grad():
        for factor, parameters in (("A", adapter.a), ("B", adapter.b)):
            for name, parameter in parameters.items():
                found = stored.get(_stored_name(name, factor))
                if found is None or found.shape != parameter.shape:
                    raise TrainingFailure("checkpoint", "The checkpoint's adapter is of another shape.")
                parameter.copy_(found)


def _stored_name(name: str, factor: str) -> str:
    layer, module = name.split("_", 1)
    part = "self_attn" if module in _ATTENTION else "mlp"
    return f"base_model.model.model.layers.{layer}.{part}.{module}.lora_{factor}.weight"
