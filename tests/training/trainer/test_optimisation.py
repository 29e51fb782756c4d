"""Each knob of optimisation does to the weights, or to the rate, what it says: by torch's own, or by its formula."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from typing import Any

import pytest
import torch
from torch import nn

from training.trainer.optimisation import Optimizer, rate_at
from training.trainer.processes import Processes
from training.trainer.spec import Spec

CPU = torch.device("cpu")
PEAK = 0.1
RATES = (0.1, 0.03, 0.07)
Torchs = Callable[..., torch.optim.Optimizer]


def spec_of(**knobs: Any) -> Spec:
    return Spec(dataset="", output="", **{"max_grad_norm": 0.0} | knobs)


def weights() -> dict[str, nn.Parameter]:
    """A matrix, and a vector as biases and norms are; some are 0."""
    random = torch.Generator().manual_seed(1)
    matrix = torch.randn(3, 4, generator=random)
    matrix[0, 0] = 0.0
    return {"matrix": nn.Parameter(matrix), "vector": nn.Parameter(torch.randn(4, generator=random))}


def gradients(step: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(2 + step)
    return {name: torch.randn(p.shape, generator=random) for name, p in weights().items()}


def stepped(**knobs: Any) -> tuple[dict[str, nn.Parameter], list[float]]:
    """The weights after a step at each of the rates, and the norms these answered."""
    learnt = weights()
    optimizer = Optimizer(learnt, spec_of(**knobs), PEAK, Processes(CPU))
    norms = []
    for step, rate in enumerate(RATES):
        for name, gradient in gradients(step).items():
            learnt[name].grad = gradient
        norms.append(optimizer.step(optimizer.gradients(), rate))
        assert all(p.grad is None for p in learnt.values())
    return learnt, norms


def stepped_by(torchs: Torchs, decay: float, **options: Any) -> dict[str, nn.Parameter]:
    """By torch's optimizer as its documentation has it; only the matrix is decayed."""
    learnt = weights()
    groups = [
        {"params": [learnt["matrix"]], "weight_decay": decay},
        {"params": [learnt["vector"]], "weight_decay": 0.0},
    ]
    optimizer = torchs(groups, lr=PEAK, foreach=False, **options)
    for step, rate in enumerate(RATES):
        for name, gradient in gradients(step).items():
            learnt[name].grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return learnt


def assert_same(ours: dict[str, nn.Parameter], theirs: dict[str, Any]) -> None:
    for name, wanted in theirs.items():
        torch.testing.assert_close(
            ours[name].detach(), torch.as_tensor(wanted).detach(), rtol=1e-5, atol=1e-6
        )


# --- Steps -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(
    ("knobs", "torchs", "options"),
    [
        ({"optimizer": "adamw"}, torch.optim.AdamW, {}),
        ({"optimizer": "adam"}, torch.optim.Adam, {}),
        ({"optimizer": "sgd", "momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8}),
        ({"optimizer": "sgd", "momentum": 0.0}, torch.optim.SGD, {}),
    ],
)
def test_an_optimizer_is_the_one_of_torch_and_decays_matrices_alone(
    knobs: dict[str, Any], torchs: Torchs, options: dict[str, Any], decay: float
) -> None:
    ours, _ = stepped(**knobs, weight_decay=decay)
    assert_same(ours, stepped_by(torchs, decay, **options))


def test_left_alone_it_is_adamw_without_decay() -> None:
    ours, _ = stepped()
    assert_same(ours, stepped_by(torch.optim.AdamW, 0.0))


def by_hand(*, l1: float, limit: float) -> dict[str, torch.Tensor]:
    """By SGD without momentum."""
    learnt: dict[str, torch.Tensor] = {name: p.detach() for name, p in weights().items()}
    for step, rate in enumerate(RATES):
        scale = min(limit / norm(step), 1.0)
        learnt = {
            name: p - rate * (scale * gradients(step)[name] + l1 * p.sign()) for name, p in learnt.items()
        }
    return learnt


def norm(step: int) -> float:
    return float(torch.cat([gradient.flatten() for gradient in gradients(step).values()]).norm())


def test_gradients_are_clipped_to_their_norm_over_all_weights_and_only_where_it_is_larger() -> None:
    norms = [norm(step) for step in range(len(RATES))]
    limit = sorted(norms)[1] - 0.01  # two of the three are larger
    ours, answered = stepped(optimizer="sgd", momentum=0.0, max_grad_norm=limit)
    assert answered == pytest.approx(norms)  # before they were clipped
    assert_same(ours, by_hand(l1=0.0, limit=limit))


def test_l1_draws_every_weight_towards_zero_by_the_same_however_gradients_are_clipped() -> None:
    ours, _ = stepped(optimizer="sgd", momentum=0.0, l1=0.25, max_grad_norm=0.1)
    assert_same(ours, by_hand(l1=0.25, limit=0.1))


# --- Rates ------------------------------------------------------------------------------------------------
WARM = [1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("constant", [1.0] * 7),
        ("linear", [1 - n / 7 for n in range(7)]),
        ("cosine", [(1 + cos(pi * n / 7)) / 2 for n in range(7)]),
    ],
)
@pytest.mark.parametrize("warmup", [0.3, 0.21])  # steps of a warm-up are whole: rounded up
def test_a_rate_is_warmed_up_and_then_goes_as_its_schedule_says(
    schedule: str, after: list[float], warmup: float
) -> None:
    spec = spec_of(schedule=schedule, warmup=warmup)
    rates = [rate_at(step, 10, spec, 0.02) for step in range(10)]
    assert rates == pytest.approx([0.02 * share for share in WARM + after])
    assert rate_at(10, 10, spec, 0.02) == pytest.approx(0.02 if schedule == "constant" else 0.0)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),
    ],
)
def test_without_a_warm_up_the_first_step_has_the_whole_rate(schedule: str, shares: list[float]) -> None:
    spec = spec_of(schedule=schedule, warmup=0.0)
    assert [rate_at(step, 4, spec, 2.0) for step in range(4)] == pytest.approx(
        [2.0 * share for share in shares]
    )


def test_a_warm_up_may_take_all_of_the_steps() -> None:
    spec = spec_of(warmup=1.0)
    assert [rate_at(step, 4, spec, 1.0) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
