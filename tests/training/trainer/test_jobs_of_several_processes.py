"""What several processes learn together is what one learns."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import safetensors.torch

from tests.training.trainer import started, uneven
from tests.training.trainer.jobs import Bench, Trained, wait_for_step
from training.trainer.failures import EXIT_STATUS


def test_two_processes_compute_what_one_does(bench: Bench) -> None:
    one = bench.run("one", microbatch_tokens=64)
    for process in started.start(bench.spec("two", microbatch_tokens=64), 2):
        process.join()
        assert process.exitcode == 0
    two = Trained(bench.folder / "two", 0)
    assert two.losses.keys() == one.losses.keys()
    for step, loss in one.losses.items():
        assert two.losses[step] == pytest.approx(loss, rel=1e-5)
    for mine, theirs in zip(two.lines("step"), one.lines("step"), strict=True):
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
    assert two.status["best_validation_loss"] == pytest.approx(one.status["best_validation_loss"], rel=1e-5)


def test_processes_that_have_different_memory_free_divide_a_step_alike(bench: Bench) -> None:
    """Started as torchrun does it without our launcher."""
    options: dict[str, Any] = {"microbatch_tokens": "auto", "max_steps": 2}
    one = bench.run("one", **options)
    spec = bench.spec("two", **options)
    for process in started.start(spec, 2, prepare=uneven.short_of_memory, by_hand=True):
        process.join()
        assert process.exitcode == 0
    two = Trained(bench.folder / "two", 0)
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    theirs, alone = (
        next(line["value"] for line in run.lines("chosen") if line["knob"] == "microbatch_tokens")
        for run in (two, one)
    )
    assert theirs < alone


def test_what_one_of_two_processes_failed_of_is_said_and_not_that_the_other_lost_it(bench: Bench) -> None:
    spec = bench.spec(max_steps=1, microbatch_tokens=64)
    first, second = started.start(spec, 2, prepare=uneven.out_of_memory)
    for process in (first, second):
        process.join()
    assert (first.exitcode, second.exitcode) == (1, EXIT_STATUS["oom"])
    said = Trained(bench.folder / "out", 1).status
    assert (said["state"], said["error"]) == ("failed", "oom")


def test_lines_whose_loss_is_not_finite_are_named_whichever_process_read_them(bench: Bench) -> None:
    options: dict[str, Any] = {"microbatch_tokens": 64, "batch_size": 8, "max_steps": 1}
    for process in started.start(bench.spec(**options), 2, prepare=uneven.not_a_number):
        process.join()
        assert process.exitcode == EXIT_STATUS["nan"]
    message = Trained(bench.folder / "out", 5).status["message"]
    lines = message.partition("; it read lines ")[2].partition(" of train.jsonl")[0].split(", ")
    assert 0 < len({*lines}) < 8


def test_weights_shared_out_over_two_processes_learn_what_one_does_and_go_on_after_a_kill(
    bench: Bench,
) -> None:
    # Passes are of one example or two, so in most steps one of the processes has fewer.
    options: dict[str, Any] = {
        "method": "full",
        "microbatch_tokens": 48,
        "max_steps": 9,
        "checkpoint_every": 3,
    }
    one = bench.run("one", **options)
    spec = bench.spec("two", fsdp=True, **options)
    processes = started.start(spec, 2)
    wait_for_step(bench.folder / "two", 5)
    for process in processes:
        process.kill()
        process.join()
    shutil.copytree(bench.folder / "two", bench.folder / "alone")
    for process in started.start(spec, 2):
        process.join()
        assert process.exitcode == 0
    two = Trained(bench.folder / "two", 0)
    (resumed,) = two.lines("resumed")
    assert resumed["exact"]
    _assert_same(two, one)
    kept = two.output / "checkpoints" / "step-00000009"
    assert json.loads((kept / "state.json").read_text())["fsdp"]
    for name in ("weights", "optimizer"):  # as whole as one process writes them
        found, wanted = (
            safetensors.torch.load_file(run.output / "checkpoints" / kept.name / f"{name}.safetensors")
            for run in (two, one)
        )
        assert {key: value.shape for key, value in found.items()} == {
            key: value.shape for key, value in wanted.items()
        }
    alone = bench.run("alone", **options)
    (resumed,) = alone.lines("resumed")
    assert not resumed["exact"]
    _assert_same(alone, one)


def _assert_same(found: Trained, wanted: Trained) -> None:
    """Whatever the number of processes: losses, and what is left in the end."""
    assert found.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert found.status["best_validation_loss"] == pytest.approx(
        wanted.status["best_validation_loss"], rel=1e-5
    )
    ours, theirs = (
        safetensors.torch.load_file(run.output / "model" / "model.safetensors") for run in (found, wanted)
    )
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).norm() <= 1e-5 * tensor.norm(), name
