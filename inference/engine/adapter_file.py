"""What a PEFT LoRA folder says, checked against the model it is for. Knows nothing of torch, nor of the numbers in it.

The folder is what `PeftModel.save_pretrained` writes: adapter_config.json and adapter_model.safetensors. With a
classifier.json beside them it is a classifier's, whose head is one more tensor, and no business of an adapter's.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.engine.config import ModelConfig
from inference.formats.classifier_card import ADAPTERS_SCORE, is_classifier
from inference.formats.errors import ModelFileError
from inference.formats.json_file import json_object, read_text
from inference.formats.safetensors_file import StoredTensor, read_headers

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 64  # what an engine serves where nobody says otherwise
# The engine's products, each of one or several of PEFT's modules, in the order their outputs are stacked.
PRODUCTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}
_MODULES = tuple(module for modules in PRODUCTS.values() for module in modules)
_NAME = re.compile(
    r"base_model\.model\.(model\.layers\.(0|[1-9]\d{0,3})\."
    r"(?:self_attn\.(?=[qkvo]_)|mlp\.(?=gate_|up_|down_))([a-z]+_proj))\.lora_([AB])\.weight"
)
_CONFIG_BYTES = 2**20
_DTYPES = ("F32", "F16", "BF16")
# Starts that change the base model's weights as well, which are then not in the adapter.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Whatever makes an adapter more than two factors for each matrix; PEFT writes these fields whether used or not.
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "lora_bias": "biases in its factors",
    "fan_in_fan_out": "transposed matrices",
    "modules_to_save": "whole modules beside its factors",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "factors for bare parameters",
}


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """A folder that was looked through: everything but its numbers."""

    weights: Path
    config_text: str
    settings: AdapterSettings
    stored: dict[str, StoredTensor]
    modules: dict[
        tuple[int, str], str
    ]  # of every (layer, module) that is changed: the module's name in the model

    def begun_digest(self) -> hashlib._Hash:
        """SHA-256 of the configuration; with the weights' bytes after it, it is the adapter's digest."""
        return hashlib.sha256(f"{len(self.config_text.encode())}:{self.config_text}".encode())

    def digest(self) -> str:
        """What `read_adapter` will say its digest is, as long as the files stay as they are. Raises ModelFileError."""
        digest = self.begun_digest()
        try:
            with self.weights.open("rb") as file:
                while piece := file.read(2**20):
                    digest.update(piece)
        except OSError as error:
            raise ModelFileError(self.weights, f"cannot be read: {error.strerror}.") from error
        return digest.hexdigest()


def open_adapter(folder: Path, config: ModelConfig, max_rank: int = MAX_RANK) -> AdapterFile:
    """The adapter in `folder`, for a model of this shape. Raises ModelFileError, which says what is wrong."""
    weights = folder / WEIGHTS_FILE
    if not weights.exists() and (folder / "adapter_model.bin").exists():
        raise ModelFileError(
            folder / "adapter_model.bin",
            "is pickled, which can run code when opened, and is never read here; save it as safetensors.",
        )
    text = read_text(folder / CONFIG_FILE, _CONFIG_BYTES)
    has_head = is_classifier(folder)
    settings = AdapterSettings(folder / CONFIG_FILE, text, max_rank, has_head=has_head)
    stored = read_headers([weights])
    if has_head:
        stored.pop(ADAPTERS_SCORE, None)
    return AdapterFile(weights, text, settings, stored, _modules(weights, stored, config, settings))


def module_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """[outputs, inputs] of every matrix of a layer that an adapter may change."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }


class AdapterSettings:
    """adapter_config.json, checked."""

    def __init__(self, path: Path, text: str, max_rank: int, *, has_head: bool = False) -> None:
        values = json_object(path, text)
        if values.get("peft_type") != "LORA":
            raise ModelFileError(
                path, f"is of the type {values.get('peft_type')!r}; only LORA adapters are served."
            )
        known = {"modules_to_save": ["score"]} if has_head else {}
        for field, meaning in _UNSUPPORTED.items():
            if values.get(field) and values[field] != known.get(field):
                raise ModelFileError(path, f"asks for {meaning} ({field}), which is not served here.")
        if values.get("bias", "none") != "none":
            raise ModelFileError(
                path, f"has trained biases (bias {values['bias']!r}); only 'none' is served."
            )
        start = values.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
            raise ModelFileError(
                path, f"was begun by {start!r}, which changes the base model too; convert it to plain LoRA."
            )
        self._path, self._max_rank = path, max_rank
        self._rslora = bool(values.get("use_rslora"))
        self._ranks = self._pattern(values, "rank_pattern") | {"": self._positive(values.get("r"), "r")}
        alpha = self._positive(values.get("lora_alpha"), "lora_alpha")
        self._alphas = self._pattern(values, "alpha_pattern") | {"": alpha}

    def rank(self, module: str) -> int:
        rank = _first_match(self._ranks, module)
        if rank != int(rank) or rank > self._max_rank:
            raise ModelFileError(self._path, f"asks for rank {rank:g}; at most {self._max_rank} is served.")
        return int(rank)

    def scaling(self, module: str) -> float:
        rank = self.rank(module)
        return _first_match(self._alphas, module) / (math.sqrt(rank) if self._rslora else rank)

    def _pattern(self, values: dict[str, Any], field: str) -> dict[str, float]:
        pattern = values.get(field) or {}
        # PEFT reads these as regular expressions; a file we did not write is not given one to run.
        if not isinstance(pattern, dict) or not all(re.fullmatch(r"[\w.]+", key) for key in pattern):
            raise ModelFileError(self._path, f"has a {field} that is not made of the names of modules.")
        return {key: self._positive(value, field) for key, value in pattern.items()}

    def _positive(self, value: Any, field: str) -> float:
        if type(value) not in (int, float) or not 0 < value < 1e6:
            raise ModelFileError(self._path, f"gives {value!r} as {field}, which is absurd.")
        return float(value)


def _first_match(values: dict[str, float], module: str) -> float:
    """Of the first pattern the name ends with, as PEFT chooses; "" is last and fits every name."""
    return next(v for key, v in values.items() if not key or f".{module}".endswith(f".{key}"))


def _modules(
    file: Path, stored: dict[str, StoredTensor], config: ModelConfig, settings: AdapterSettings
) -> dict[tuple[int, str], str]:
    """The module behind every (layer, module); both of its factors are there and of the right shape."""
    shapes = module_shapes(config)
    pairs: dict[tuple[int, str], str] = {}
    for name, tensor in stored.items():
        match = _NAME.fullmatch(name)
        if match is None or match[3] not in _MODULES:
            raise ModelFileError(
                file, f"stores {name}, but only the matrices {', '.join(_MODULES)} can be adapted."
            )
        module, layer = match[1], int(match[2])
        if layer >= config.num_layers:
            raise ModelFileError(
                file, f"stores {name}, but the model has {config.num_layers} layers: it is for another model."
            )
        if tensor.dtype not in _DTYPES:
            raise ModelFileError(
                file, f"stores {name} as {tensor.dtype}, which is no floating-point type we read."
            )
        outputs, inputs = shapes[match[3]]
        rank = settings.rank(module)
        wanted = (rank, inputs) if match[4] == "A" else (outputs, rank)
        if tensor.shape != wanted:
            raise ModelFileError(
                file,
                f"stores {name} as {list(tensor.shape)}, but this model and rank ask for {list(wanted)}.",
            )
        pairs[layer, match[3]] = module
    for module in pairs.values():
        for factor in "AB":
            if stored_name(module, factor) not in stored:
                raise ModelFileError(file, f"has no {stored_name(module, factor)}.")
    if not pairs:
        raise ModelFileError(file, "holds no factors at all.")
    return pairs


def stored_name(module: str, factor: str) -> str:
    return f"base_model.model.{module}.lora_{factor}.weight"
