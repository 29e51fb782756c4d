"""What the knobs of a forward pass do to it: an adapter's targets and dropout, smoothing, precision, recomputing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM

from inference.engine.linear import Linear
from inference.engine.model import Layer
from tests.training.trainer.test_arithmetic import CPU, learner_of, split_of
from training.trainer.data import Batch
from training.trainer.learner import Learner
from training.trainer.lora import LoraAdapter
from training.trainer.objective import objective_of
from training.trainer.spec import MODULES, Lora, Spec


def batch_of(learner: Learner, chats: Path) -> Batch:
    split = split_of(learner, chats)
    return split.batch(split.spans(1024)[:3], CPU)


def begun(learner: Learner) -> LoraAdapter:
    """Its adapter as if it had learnt something: at first it adds nothing."""
    assert learner.adapter is not None
    with torch.no_grad():
        for factor in learner.adapter.b.values():
            nn.init.normal_(factor, std=0.05)
    return learner.adapter


# --- Adapters -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("targets", [["q_proj"], ["v_proj", "up_proj"], list(MODULES)])
def test_an_adapter_changes_the_modules_it_is_for_and_no_others_as_peft_reads_it(
    targets: list[str], tiny_base: Path, chats: Path, tmp_path: Path
) -> None:
    learner = learner_of(tiny_base, chats, lora=Lora(r=4, targets=targets))
    adapter = begun(learner)
    named = {f"{factor}.{layer}_{module}" for factor in "ab" for layer in (0, 1) for module in targets}
    assert learner.parameters.keys() == named
    for name, data in learner.served_files(1024).items():
        (tmp_path / name).write_bytes(data)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path)
    changed = {name.split(".")[6] for name, _ in theirs.named_parameters() if "lora_" in name}
    assert changed == {*targets}
    split = split_of(learner, chats)
    batch = split.batch(split.spans(1024)[:1], CPU)
    with torch.no_grad():
        logits = theirs(batch.ids.unsqueeze(0)).logits[0]
        wanted = F.cross_entropy(logits[batch.rows], batch.targets, reduction="sum")
        assert float(learner.summed_loss(batch, training=True)) == pytest.approx(float(wanted), rel=1e-5)
        adapter.scaling = 0.0
        assert float(learner.summed_loss(batch, training=True)) != pytest.approx(float(wanted), rel=1e-5)


def test_an_adapters_dropout_is_of_what_goes_into_it_and_only_of_the_training(
    tiny_base: Path, chats: Path
) -> None:
    learner = learner_of(tiny_base, chats, lora=Lora(r=4, alpha=8, dropout=0.5))
    adapter = begun(learner)
    x, y = torch.randn(20, 48), torch.randn(20, 48)
    a, b = adapter.a["1_o_proj"], adapter.b["1_o_proj"]
    torch.manual_seed(3)
    wanted = y + 2.0 * F.dropout(x, 0.5) @ a.t() @ b.t()
    torch.manual_seed(3)
    torch.testing.assert_close(adapter(1, "o_proj", x, y), wanted)

    batch = batch_of(learner, chats)
    losses: dict[bool, set[float]] = {True: set(), False: set()}
    with torch.no_grad():
        for training, found in losses.items():
            for seed in range(3):
                torch.manual_seed(seed)
                found.add(float(learner.summed_loss(batch, training=training)))
        adapter._dropout = 0.0
        plain = float(learner.summed_loss(batch, training=True))
    assert len(losses[True]) == 3
    assert losses[False] == {plain}


# --- Losses ----------------------------------------------------------------------------------------------
def test_smoothing_of_what_is_written_is_that_of_torch_and_only_of_the_training(
    tiny_base: Path, chats: Path
) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(40, 16), torch.randn(50, 16)
    targets = torch.randint(0, 50, (40,))
    for task in ("language", "scratch"):
        spec = Spec(dataset=str(chats), output="", task=task, label_smoothing=0.2)  # type: ignore[arg-type]
        objective = objective_of(spec, lambda: None)
        for training, smoothing in ((True, 0.2), (False, 0.0)):
            wanted = F.cross_entropy(hidden @ head.t(), targets, reduction="sum", label_smoothing=smoothing)
            found = objective.summed_loss(hidden, head, targets, training=training)
            assert float(found) == pytest.approx(float(wanted), rel=1e-5)

    plain, smooth = (learner_of(tiny_base, chats, label_smoothing=share) for share in (0.0, 0.2))
    batch = batch_of(plain, chats)
    with torch.no_grad():
        judged, learnt = (
            [float(learner.summed_loss(batch, training=training)) for learner in (plain, smooth)]
            for training in (False, True)
        )
    assert judged[0] == judged[1] == learnt[0] != pytest.approx(learnt[1])


# --- Precision and memory -----------------------------------------------------------------------------------
class Dtypes:
    """Of what a pass computes: where layers multiply, attend, and what the objective is given."""

    def __init__(self, learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.products: set[torch.dtype] = set()
        self.hidden: set[torch.dtype] = set()
        summed_loss = learner._objective.summed_loss

        def noting(hidden: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            self.hidden.add(hidden.dtype)
            return summed_loss(hidden, *rest, **options)

        monkeypatch.setattr(learner._objective, "summed_loss", noting)
        for module in learner.loaded.model.layers.modules():
            if isinstance(module, Linear):
                module.register_forward_hook(lambda _module, _x, y: self.products.add(y.dtype))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_bf16_is_what_is_computed_in_and_what_an_adapters_base_is_kept_in(
    method: str, precision: str, tiny_base: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = torch.bfloat16 if precision == "bf16" else torch.float32
    learner = learner_of(tiny_base, chats, method=method, precision=precision)
    dtypes = Dtypes(learner, monkeypatch)
    learner.summed_loss(batch_of(learner, chats), training=True).backward()
    assert (dtypes.products, dtypes.hidden) == ({asked}, {asked})
    kept = {p.dtype for p in learner.loaded.model.parameters()}
    # All weights that are learnt are in fp32, where small steps add up.
    assert kept == ({asked} if method == "lora" else {torch.float32})
    assert {p.grad.dtype for p in learner.parameters.values() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("again", [True, False])
def test_layers_are_computed_a_second_time_on_the_way_back_only_where_their_memory_is_saved(
    again: bool, method: str, tiny_base: Path, chats: Path
) -> None:
    learner = learner_of(tiny_base, chats, method=method, gradient_checkpointing=again)
    batch = batch_of(learner, chats)
    runs: list[int] = []
    for layer in learner.loaded.model.layers:
        assert isinstance(layer, Layer)
        layer.register_forward_pre_hook(lambda layer, _: runs.append(layer.index))
    loss = learner.summed_loss(batch, training=True)
    assert runs == [0, 1]
    loss.backward()
    assert runs == ([0, 1, 1, 0] if again else [0, 1])
    runs.clear()
    learner.summed_loss(batch, training=False)
    assert runs == [0, 1]
