"""What is wrong with an adapter is a sentence that says so; nothing of it is kept, and the engine goes on serving."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.engine.config import ModelConfig
from inference.engine.config_folder import config_from_folder
from inference.engine.engine import TorchEngine
from inference.engine.interface import InvalidAdapter, UnknownAdapter
from tests.inference.engine.running import ask, run
from tests.inference.lora_adapters import save_adapter

Damage = Callable[[Path], None]
_LAYER = "base_model.model.model.layers.1."
_A, _B = f"{_LAYER}self_attn.q_proj.lora_A.weight", f"{_LAYER}self_attn.q_proj.lora_B.weight"


def settings(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return change


def tensors(**changes: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        stored = load_file(path)
        for change in changes.values():
            change(stored)
        save_file(stored, path)

    return change


def with_value(name: str, value: float) -> Damage:
    def change(stored: dict[str, torch.Tensor]) -> None:
        stored[name][0, -1] = value

    return tensors(change=change)


def with_tensor(name: str, tensor: torch.Tensor | None) -> Damage:
    def change(stored: dict[str, torch.Tensor]) -> None:
        stored.pop(name, None)
        if tensor is not None:
            stored[name] = tensor

    return tensors(change=change)


def cut(name: str, share: float) -> Damage:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return change


def header(length: int, text: bytes = b"") -> Damage:
    return lambda folder: (
        (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", length) + text) and None
    )


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))


def missing(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


_ABSURD = json.dumps({_A: {"dtype": "F32", "shape": [8, 2**50], "data_offsets": [0, 2**55]}}).encode()

DAMAGES: list[tuple[Damage, str]] = [
    # The configuration.
    (missing("adapter_config.json"), r"adapter_config\.json: cannot be read"),
    (cut("adapter_config.json", 0.5), r"adapter_config\.json: is not valid JSON"),
    (settings(peft_type="IA3"), "'IA3'"),
    (settings(peft_type=None), "only LORA"),
    (settings(use_dora=True), "DoRA"),
    (settings(bias="all"), "biases"),
    (settings(lora_bias=True), "biases in its factors"),
    (settings(fan_in_fan_out=True), "transposed"),
    (settings(modules_to_save=["lm_head"]), "modules_to_save"),
    (settings(layer_replication=[[0, 2]]), "replicated"),
    (settings(target_parameters=["x"]), "target_parameters"),
    (settings(init_lora_weights="pissa_niter_4"), "changes the base model"),
    (settings(r=0), "gives 0 as r"),
    (settings(r=-8), "gives -8 as r"),
    (settings(r=None), "gives None as r"),
    (settings(r="8"), "gives '8' as r"),
    (settings(r=True), "gives True as r"),
    (settings(r=7.5), "rank 7.5"),
    (settings(r=10**9), "absurd"),
    (settings(r=65), "rank 65; at most 64"),
    (settings(r=4), "ask for"),
    (settings(lora_alpha=0), "gives 0 as lora_alpha"),
    (settings(lora_alpha=float("nan")), "gives nan as lora_alpha"),
    (settings(lora_alpha=float("inf")), "gives inf as lora_alpha"),
    (settings(rank_pattern=["q_proj"]), "rank_pattern"),
    (settings(rank_pattern={"(a+)+$": 4}), "not made of the names of modules"),
    (settings(rank_pattern={"q_proj": 4}), "ask for"),
    (settings(alpha_pattern={"q_proj": None}), "gives None as alpha_pattern"),
    # The file.
    (pickled, "pickled"),
    (missing("adapter_model.safetensors"), r"adapter_model\.safetensors: cannot be read"),
    (cut("adapter_model.safetensors", 0.6), "truncated"),
    (cut("adapter_model.safetensors", 0.01), "truncated"),
    (cut("adapter_model.safetensors", 0), "truncated"),
    (header(2**62), "header does not fit"),
    (header(len(_ABSURD), _ABSURD), "truncated"),
    (header(2, b"[]"), "no JSON object"),
    (header(2, b"{}"), "no factors"),
    # The tensors.
    (with_tensor(_A, None), r"has no .*lora_A"),
    (with_tensor(_B, None), r"has no .*lora_B"),
    (with_tensor(_A, torch.zeros(8, 47)), r"\[8, 47\], but .* \[8, 48\]"),
    (with_tensor(_B, torch.zeros(8, 48)), r"\[8, 48\], but .* \[48, 8\]"),
    (with_tensor(_A, torch.zeros(8, 48, dtype=torch.int32)), "I32"),
    (with_tensor("base_model.model.lm_head.lora_A.weight", torch.zeros(8, 48)), "lm_head"),
    (with_tensor("base_model.model.model.embed_tokens.lora_embedding_A", torch.zeros(8, 9)), "embed_tokens"),
    (with_tensor(f"{_LAYER}mlp.q_proj.lora_A.weight", torch.zeros(8, 48)), "only the matrices"),
    (with_tensor(f"{_LAYER}self_attn.q_proj.lora_magnitude_vector", torch.zeros(48)), "only the matrices"),
    (with_tensor(_A.replace(".1.", ".01."), torch.zeros(8, 48)), "only the matrices"),
    (with_tensor(_A.replace(".1.", ".3."), torch.zeros(8, 48)), "3 layers: it is for another model"),
    (with_value(_A, float("nan")), "not finite"),
    (with_value(_B, float("inf")), "not finite"),
    (with_value(_B, 3e38), "not finite"),  # it is, but not times the scaling
]


@pytest.fixture
def config(tiny_folder: Path) -> ModelConfig:
    return config_from_folder(tiny_folder)


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_bad_adapter_is_refused_with_the_reason_and_the_engine_goes_on(
    damage: Damage, says: str, engine: TorchEngine, config: ModelConfig, tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path / "adapter", config)
    engine.load_adapter("good", folder)
    damage(folder)
    with pytest.raises(InvalidAdapter, match=says) as refused:
        engine.load_adapter("bad", folder)
    assert refused.value.code == "invalid_adapter"
    with pytest.raises(UnknownAdapter) as unknown:
        engine.submit(ask("The", id="refused", adapter="bad"))
    assert unknown.value.code == "unknown_adapter"
    for answer in run(engine, ask("The", adapter="good"), ask("The", id="base")):
        assert answer.finish_reason in ("stop", "length")


def test_a_refused_version_leaves_the_name_to_the_one_before(
    engine: TorchEngine, config: ModelConfig, tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path / "adapter", config)
    engine.load_adapter("name", folder)
    (before,) = run(engine, ask("The", adapter="name"))
    with_value(_A, float("nan"))(folder)
    with pytest.raises(InvalidAdapter):
        engine.load_adapter("name", folder)
    assert run(engine, ask("The", adapter="name"))[0].token_ids == before.token_ids


def test_the_digest_names_tensors_and_configuration(
    engine: TorchEngine, config: ModelConfig, tmp_path: Path
) -> None:
    first = save_adapter(tmp_path / "first", config, seed=1)
    digests = {
        engine.read_adapter(folder).digest
        for folder in (
            first,
            save_adapter(tmp_path / "copy", config, seed=1),
            save_adapter(tmp_path / "other tensors", config, seed=2),
        )
    }
    assert len(digests) == 2
    settings(lora_alpha=17)(first)
    assert engine.read_adapter(first).digest not in digests
