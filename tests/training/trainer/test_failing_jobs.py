"""Jobs that cannot be done, and say why: data, numbers, disks, memory, knobs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tests.inference.engine.running import needs_gpu
from tests.training.trainer.conftest import conversation, freeze
from tests.training.trainer.jobs import Bench
from training import launcher, trainer_process
from training.datasets.examples import ChatExample, Message
from training.trainer import checkpoints, objective
from training.trainer.command import main
from training.trainer.failures import EXIT_STATUS
from training.trainer.processes import Processes
from training.trainer.spec import RANGES


def test_a_dataset_with_nothing_to_learn_fails_as_data(bench: Bench) -> None:
    silent = [ChatExample([Message("user", "hi"), Message("assistant", "ho", weight=0)])] * 3
    bench.dataset = freeze(bench.folder / "silent", "chat", train=list(silent))
    done = bench.run()
    assert done.exit_status == EXIT_STATUS["data"]
    assert "nothing to learn" in done.status["message"]
    (bench.dataset / "manifest.json").write_text("{}")
    assert bench.run().status["error"] == "data"


def test_a_loss_that_is_not_finite_stops_the_job_and_names_the_lines(bench: Bench) -> None:
    before = objective.summed_cross_entropy
    calls = iter(range(1000))

    def broken(*arguments: Any) -> torch.Tensor:
        loss = before(*arguments)
        return loss * float("nan") if next(calls) == 4 else loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "summed_cross_entropy", broken)
        done = bench.run(checkpoint_every=100)
    assert done.exit_status == EXIT_STATUS["nan"]
    assert done.status["error"] == "nan"
    assert "lines" in done.status["message"]
    assert len(done.losses) == 3


def test_a_validation_loss_that_is_never_finite_is_said_to_be_that(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = objective.summed_cross_entropy

    def broken(*arguments: Any) -> torch.Tensor:
        loss = before(*arguments)
        return loss if torch.is_grad_enabled() else loss * float("inf")

    monkeypatch.setattr(objective, "summed_cross_entropy", broken)
    done = bench.run()
    assert done.exit_status == EXIT_STATUS["nan"]
    assert done.status["error"] == "nan"
    assert "The validation loss was never finite." in done.status["message"]


def test_a_full_disk_stops_the_job_and_keeps_the_last_checkpoint(bench: Bench) -> None:
    before = checkpoints.os.fsync
    left = iter(range(7))  # files: those of one checkpoint, and some of the next

    def full(descriptor: int) -> None:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        before(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", full)
        done = bench.run()
    assert done.exit_status == EXIT_STATUS["disk"]
    assert done.status["error"] == "disk"
    assert [folder.name for folder in (done.output / "checkpoints").iterdir()] == ["step-00000002"]
    assert bench.run().status["state"] == "succeeded"


def test_on_a_disk_without_any_room_the_exit_status_says_so(bench: Bench) -> None:
    """Neither status.json nor the log has room for it."""
    log = bench.folder / "trainer.log"
    log.write_bytes(b"x" * 200)
    spec = bench.spec()
    (bench.folder / "out").mkdir()
    command = trainer_process.command(spec, 1)
    command[command.index(str(trainer_process.TRAINER))] = str(Path(__file__).with_name("cramped.py"))
    # Python would keep the beginning of the code that it compiles, and read that ever after.
    environment = trainer_process.environment("a job", threads=1) | {"PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("ab") as full:
        process = subprocess.Popen(command, cwd=bench.folder, env=environment, stdout=full, stderr=full)
        assert process.wait(timeout=120) == EXIT_STATUS["disk"]
    launcher.forget("a job")
    assert log.stat().st_size == 200


def test_examples_whose_answers_come_after_all_that_is_read_are_counted(bench: Bench) -> None:
    long = ChatExample([Message("user", "fox " * 60), Message("assistant", "dog")])
    bench.dataset = freeze(bench.folder / "long", "chat", train=[long, *[conversation(n) for n in range(6)]])
    (data,) = bench.run(max_steps=1, max_length=64).lines("data")
    assert (data["examples"], data["beyond"], data["max_length"], data["device"]) == (6, 1, 64, "cpu")
    bench.dataset = freeze(bench.folder / "longer", "chat", train=[long])
    said = bench.run("none", max_steps=1, max_length=64).status
    assert said["error"] == "data"
    assert "comes after the first 64 tokens of an example" in said["message"]


def test_memory_that_runs_out_is_said_to_be_that(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> torch.Tensor:
        return torch.empty(2**60)

    monkeypatch.setattr(objective, "summed_cross_entropy", greedy)
    assert bench.run().status["error"] == "oom"


@pytest.mark.parametrize("knob", sorted(RANGES))
def test_an_absurd_knob_is_refused_with_its_range(
    knob: str, bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    value = RANGES[knob][1] + 1
    name = knob.removeprefix("lora.")
    whole = name in ("r", "max_steps", "batch_size") or float(value).is_integer()
    changes = {name: int(value) if whole else value}
    done = bench.run(**({"lora": changes} if knob != name else changes))
    assert done.exit_status == EXIT_STATUS["spec"]
    message = json.loads(capfd.readouterr().err)["message"]
    assert knob in message
    assert f"{RANGES[knob][1]:g}" in message or "int" in message


def test_a_misspelt_knob_or_a_missing_file_is_refused(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(learning_rat=1).exit_status == 2
    assert "learning_rat" in capfd.readouterr().err
    assert bench.run(lora={"targets": ["lm_head"]}).exit_status == 2
    assert "lm_head" in capfd.readouterr().err
    assert main(["nowhere.json"]) == main([]) == 2
    capfd.readouterr()
    assert main(["--help"]) == 2
    assert "Usage: python -m training.trainer SPEC.json" in capfd.readouterr().err
    for place in ("base", "dataset", "output"):  # or all of it would be written to where one is
        spec = bench.spec()
        spec.write_text(json.dumps(json.loads(spec.read_text()) | {place: ""}))
        assert main([str(spec)]) == 2
        assert f"{place} is missing" in capfd.readouterr().err
    assert bench.run(base="/nowhere").exit_status == EXIT_STATUS["model"]
    for knob in ("max_length", "validation_length"):
        assert bench.run("long", **{knob: 4096}).status["error"] == "spec"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_in_a_sentence(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(device="cuda").exit_status == EXIT_STATUS["spec"]
    assert "no GPU" in json.loads(capfd.readouterr().err)["message"]


def test_status_is_one_struct_of_json(bench: Bench) -> None:
    done = bench.run(max_steps=2)
    assert msgspec.json.decode((done.output / "status.json").read_bytes())["steps"] == 2


@needs_gpu
def test_beside_an_engine_a_job_leaves_some_of_the_gpus_memory() -> None:
    Processes(torch.device("cuda"))
    assert torch.cuda.get_per_process_memory_fraction() < 0.95
