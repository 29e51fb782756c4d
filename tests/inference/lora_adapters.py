"""LoRA adapters with random weights, saved as PEFT saves them: for tests and measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inference.engine.adapter_file import module_shapes
from inference.engine.config import ModelConfig

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def save_adapter(
    folder: Path,
    config: ModelConfig,
    *,
    seed: int = 0,
    modules: tuple[str, ...] = ALL,
    strength: float = 1.0,
    **settings: Any,
) -> Path:
    """An adapter whose every matrix moves its product by about `strength` times what comes in."""
    values: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": 8,
        "lora_alpha": 16,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "inference_mode": True,
        "target_modules": list(modules),
        "rank_pattern": {},
        "alpha_pattern": {},
    } | settings
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config.num_layers):
        for module in modules:
            outputs, inputs = module_shapes(config)[module]
            part = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            rank = values["rank_pattern"].get(module, values["r"])
            alpha = values["alpha_pattern"].get(module, values["lora_alpha"])
            scaling = alpha / (rank**0.5 if values["use_rslora"] else rank)
            name = f"base_model.model.model.layers.{layer}.{part}.{module}"
            a = torch.randn(rank, inputs, generator=random) / inputs**0.5
            b = torch.randn(outputs, rank, generator=random) * (strength / scaling / rank**0.5)
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder
