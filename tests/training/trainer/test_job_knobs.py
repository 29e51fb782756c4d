"""What a job's spec says of its steps is what its steps are: how many, how fast, in which passes, and what is said of
a pass that went wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.trainer.jobs import Bench
from training.trainer.choices import Choices
from training.trainer.data import Batch
from training.trainer.failures import EXIT_STATUS
from training.trainer.learner import Learner
from training.trainer.spec import Spec

Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def bench(tmp_path: Path, tiny_base: Path, chats: Path) -> Bench:
    return Bench(tmp_path, tiny_base, chats)


class Passes:
    """The lines of the examples of each pass that something was learnt from."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, spoilt: int = -1, change: Change | None = None
    ) -> None:
        """`change` is made to the loss of the pass `spoilt`, counted from 0."""
        self.lines: list[list[int]] = []
        summed_loss = Learner.summed_loss

        def noting(learner: Learner, batch: Batch, *, training: bool) -> torch.Tensor:
            loss = summed_loss(learner, batch, training=training)
            if not training:
                return loss
            self.lines.append(batch.lines)
            return change(loss) if change and len(self.lines) == spoilt + 1 else loss

        monkeypatch.setattr(Learner, "summed_loss", noting)


# --- How many steps, and how fast ------------------------------------------------------------------------
def test_without_a_number_of_steps_they_are_as_many_as_the_epochs_have(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(monkeypatch)
    done = bench.run(max_steps=0, epochs=2.0, batch_size=12, checkpoint_every=100)
    assert done.status["steps"] == done.status["step"] == 4  # 24 examples are two steps an epoch
    assert [line["epoch"] for line in done.lines("step")] == [0.5, 1.0, 1.5, 2.0]
    assert sorted(line for lines in passes.lines for line in lines) == sorted([*range(1, 25)] * 2)


@pytest.mark.parametrize(
    ("knobs", "steps"),
    [
        ({"epochs": 1.1}, 5),  # what is begun of an epoch is a step
        ({"epochs": 0.01}, 1),
        ({"epochs": 9.0, "max_steps": 2}, 2),
        ({}, 12),
    ],
)
def test_of_four_steps_an_epoch_there_are_as_many_as_were_asked_for(
    knobs: dict[str, Any], steps: int
) -> None:
    choices = Choices()
    choices.steps(Spec(dataset="", output="", **knobs), 4)
    assert choices.total_steps == steps


@pytest.mark.parametrize("rate", ["auto", 0.004])
def test_a_rate_is_multiplied_whoever_chose_it(rate: float | str, bench: Bench) -> None:
    done = bench.run(
        learning_rate=rate, learning_rate_multiplier=0.25, schedule="constant", warmup=0.0, max_steps=1
    )
    chosen = {line["knob"]: line["value"] for line in done.lines("chosen")}
    assert ("learning_rate" in chosen) == (rate == "auto")
    (step,) = done.lines("step")
    assert step["learning_rate"] == pytest.approx(0.25 * float(chosen.get("learning_rate", rate)))


# --- In which passes --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("knobs", "examples"),
    [
        ({}, [8]),
        ({"accumulation": 3}, [2, 2, 4]),
        ({"packing": False}, [1] * 8),
        ({"accumulation": 50}, [1] * 8),  # a pass has an example at least
        ({"microbatch_tokens": 16}, [1] * 8),  # all of these are longer
    ],
)
def test_a_step_is_divided_into_passes_as_the_spec_says(
    knobs: dict[str, Any], examples: list[int], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(monkeypatch)
    done = bench.run(**{"microbatch_tokens": 4096} | knobs, batch_size=8, max_steps=1)
    assert done.exit_status == 0
    assert sorted(map(len, passes.lines)) == examples


# --- What went wrong ---------------------------------------------------------------------------------------
def not_a_number(loss: torch.Tensor) -> torch.Tensor:
    return loss * float("nan")


def infinite_gradient(loss: torch.Tensor) -> torch.Tensor:
    """Of a loss that is a number."""
    loss.register_hook(lambda gradient: gradient * float("inf"))
    return loss


@pytest.mark.parametrize(
    ("knobs", "spoilt", "change", "named"),
    [
        (
            {"packing": False},
            9,
            not_a_number,
            slice(9, 10),
        ),  # that example alone, and not all four of its step
        ({}, 2, not_a_number, slice(2, 3)),
        ({"packing": False}, 9, infinite_gradient, slice(8, 12)),  # any of its step
    ],
)
def test_a_loss_that_is_not_finite_names_the_lines_it_was_of(
    knobs: dict[str, Any],
    spoilt: int,
    change: Change,
    named: slice,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = Passes(monkeypatch, spoilt, change)
    done = bench.run(**knobs, checkpoint_every=100)
    assert done.exit_status == EXIT_STATUS["nan"]
    said = done.status["message"]
    before, _, rest = said.partition("; it read lines ")
    lines, _, after = rest.partition(" of train.jsonl. ")
    assert before == "The loss of step 3 is not finite"
    assert sorted(map(int, lines.split(", "))) == sorted(
        line for some in passes.lines[named] for line in some
    )
    assert after == "Lower the learning rate, or look at these lines."


def test_of_many_lines_the_first_are_named_and_that_there_are_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(monkeypatch, 0, not_a_number)
    said = bench.run(batch_size=24, microbatch_tokens=4096, max_steps=1).status["message"]
    named = ", ".join(map(str, passes.lines[0][:8]))
    assert len(passes.lines[0]) == 24
    assert f"lines {named}, ... of train.jsonl" in said
