"""How an adapter begins, and dropout where all weights are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.trainer.test_arithmetic import CPU, gradients, learner_of, split_of
from training.trainer.data import Span, TokenizedSplit
from training.trainer.failures import TrainingFailure
from training.trainer.learner import Learner
from training.trainer.spec import Lora, Spec, check


def _loss(learner: Learner, split: TokenizedSplit, spans: list[Span], *, training: bool = False) -> float:
    return float(learner.summed_loss(split.batch(spans, CPU), training=training).detach())


@pytest.mark.parametrize("initialisation", ["gaussian", "orthogonal"])
def test_an_adapter_that_begins_otherwise_still_answers_as_its_base_and_peft_reads_it(
    tiny_base: Path, chats: Path, tmp_path: Path, initialisation: Any
) -> None:
    usual = learner_of(tiny_base, chats, lora=Lora(r=4))
    learner = learner_of(tiny_base, chats, lora=Lora(r=4, initialisation=initialisation))
    assert usual.adapter is not None
    assert learner.adapter is not None
    split = split_of(learner, chats)
    spans = split.spans(64)
    assert _loss(learner, split, spans) == pytest.approx(_loss(usual, split, spans), rel=1e-5)
    for name, ours in learner.adapter.a.items():
        assert ours.shape == usual.adapter.a[name].shape
        assert not torch.equal(ours, usual.adapter.a[name])
        if initialisation == "orthogonal":
            assert learner.adapter.b[name].norm() > 0.01
        else:
            assert float(ours.detach().std()) == pytest.approx(1 / 4, rel=0.3)

    for name, data in learner.checkpoint_files().items():
        (tmp_path / name).write_bytes(data)
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path)
    found = theirs.state_dict()["base_model.model.model.layers.1.mlp.down_proj.lora_A.default.weight"]
    assert torch.equal(found, learner.adapter.a["1_down_proj"])


def test_an_orthogonal_beginning_of_an_odd_rank_and_dropout_of_a_base_that_is_not_learnt_are_refused() -> (
    None
):
    places: dict[str, Any] = {"base": "b", "dataset": "d", "output": "o"}
    with pytest.raises(TrainingFailure, match=r"lora\.r is 5"):
        check(Spec(**places, lora=Lora(r=5, initialisation="orthogonal")))
    with pytest.raises(TrainingFailure, match=r"lora\.dropout"):
        check(Spec(**places, dropout=0.1))
    check(Spec(**places, method="full", dropout=0.1))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_dropout_of_blocks_is_drawn_from_the_seed_in_training_and_there_alone(
    tiny_base: Path, chats: Path, gradient_checkpointing: bool
) -> None:
    plain = learner_of(tiny_base, chats, method="full")
    learner = learner_of(
        tiny_base, chats, method="full", dropout=0.3, gradient_checkpointing=gradient_checkpointing
    )
    split = split_of(learner, chats)
    spans = split.spans(64)
    assert _loss(learner, split, spans) == _loss(plain, split, spans)
    torch.manual_seed(1)
    first = gradients(learner, split, [spans])
    again = gradients(learner, split, [spans])
    torch.manual_seed(1)
    same = gradients(learner, split, [spans])
    whole = gradients(plain, split, [spans])
    name = "layers.0.o_proj.weight"
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], again[name])
    assert not torch.equal(first[name], whole[name])
