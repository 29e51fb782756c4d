"""Weights that are shared out over processes learn what whole ones do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.inference.tiny_models import save_model, tiny_config
from tests.training.trainer.test_arithmetic import CPU, learner_of, split_of
from training.trainer.choices import Choices
from training.trainer.failures import TrainingFailure
from training.trainer.learner import Learner
from training.trainer.shards import gathered
from training.trainer.spec import Spec, check


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """Of one process, which has all parts: what two of them tell each other is in test_jobs."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients_of(learner: Learner, chats: Path) -> dict[str, torch.Tensor]:
    split = split_of(learner, chats)
    for spans in (split.spans(1024)[:3], split.spans(1024)[3:5]):
        torch.manual_seed(1)
        learner.summed_loss(split.batch(spans, CPU), training=True).backward()
    found = {name: p.grad for name, p in learner.parameters.items() if p.grad is not None}
    return gathered(found, keep=True)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, 1e-6),
        ({"gradient_checkpointing": True, "dropout": 0.3}, 1e-6),
        ({"precision": "bf16"}, 1e-6),
        ({"precision": "bf16", "gradient_checkpointing": True}, 1e-6),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_whole_weights(
    changes: dict[str, Any], tolerance: float, tied: bool, group: None, chats: Path, tmp_path: Path
) -> None:
    config = tiny_config(num_hidden_layers=2, initializer_range=0.05, tie_word_embeddings=tied)
    save_model(tmp_path, config)
    whole, shared_out = (
        gradients_of(learner_of(tmp_path, chats, method="full", fsdp=fsdp, **changes), chats)
        for fsdp in (False, True)
    )
    assert whole.keys() == shared_out.keys()
    for name, gradient in whole.items():
        assert (shared_out[name] - gradient).norm() <= tolerance * gradient.norm(), name


def test_weights_are_shared_out_where_several_gpus_learn_all_of_them_or_where_it_is_asked_for() -> None:
    gpu = torch.device("cuda")
    places: dict[str, Any] = {"base": "b", "dataset": "d", "output": "o"}
    usual, asked = Spec(**places, method="full"), Spec(**places, method="full", fsdp=True)
    choices = Choices()
    assert choices.fsdp(usual, 2, gpu)
    assert not choices.fsdp(usual, 2, CPU)
    assert [(made.knob, made.value) for made in choices.made] == [("fsdp", True), ("fsdp", False)]
    assert not choices.fsdp(usual, 1, gpu)
    assert choices.fsdp(asked, 2, CPU)
    assert not choices.fsdp(Spec(**places), 2, gpu)
    with pytest.raises(TrainingFailure, match="fsdp is for"):
        check(Spec(**places, fsdp=True))
