"""Jobs that are killed, stopped or moved to another machine, and go on as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.training.trainer import started
from tests.training.trainer.conftest import freeze
from tests.training.trainer.jobs import Bench, Trained, wait_for_step
from training.datasets.examples import DocumentExample, Example
from training.trainer import checkpoints, choices, orphans, state, tensor_files
from training.trainer import job as trainer_job
from training.trainer.attention import PackedAttention
from training.trainer.checkpoints import Checkpoints, is_whole, write_folder
from training.trainer.command import main
from training.trainer.failures import EXIT_STATUS
from training.trainer.learner import Learner
from training.trainer.optimisation import Optimizer
from training.trainer.spec import Spec


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_job_that_is_killed_and_goes_on_computes_the_same_losses(method: str, bench: Bench) -> None:
    options: dict[str, Any] = {"method": method, "max_steps": 40, "checkpoint_every": 10}
    options["lora"] = {"dropout": 0.2}
    whole = bench.run("whole", **options)
    (process,) = started.start(bench.spec("cut", **options))
    wait_for_step(bench.folder / "cut", 12)
    process.kill()
    process.join()
    cut = bench.run("cut", **options)
    (resumed,) = cut.lines("resumed")
    assert resumed["step"] in (10, 20, 30)
    assert resumed["exact"]
    assert cut.losses == whole.losses
    assert cut.status["best_validation_loss"] == whole.status["best_validation_loss"]
    (result,) = {"adapter", "model"} & {folder.name for folder in cut.output.iterdir()}
    for file in (whole.output / result).iterdir():
        assert file.read_bytes() == (cut.output / result / file.name).read_bytes()


def test_memory_that_is_free_meanwhile_does_not_change_how_it_goes_on(bench: Bench) -> None:
    whole = bench.run("whole", microbatch_tokens="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "free_memory", lambda _: 2**20)  # a pass for nearly every example
        bench.run("cut", microbatch_tokens="auto", max_steps=6)
        small = Trained(bench.folder / "cut", 0).losses
    assert small.keys() == whole.losses.keys()
    for last in sorted((bench.folder / "cut" / "checkpoints").iterdir())[1:]:
        (last / "manifest.json").unlink()
    assert bench.run("cut", microbatch_tokens="auto").losses == small


def test_told_to_stop_it_saves_what_it_learnt_and_says_so(bench: Bench) -> None:
    whole = bench.run("whole", max_steps=50, checkpoint_every=40)
    (process,) = started.start(bench.spec("cut", max_steps=50, checkpoint_every=40))
    wait_for_step(bench.folder / "cut", 3)
    process.terminate()
    process.join(15)
    assert process.exitcode == EXIT_STATUS["stopped"] == 3
    cut = Trained(bench.folder / "cut", 3)
    assert cut.status["state"] == "stopped"
    (saved,) = cut.lines("checkpoint")
    assert saved["step"] == max(cut.losses)
    again = bench.run("cut", max_steps=50, checkpoint_every=40)
    assert again.losses == whole.losses


def test_told_to_stop_since_its_worker_died_it_has_less_time_than_the_lease_of_its_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms: list[int] = []
    monkeypatch.setattr(orphans.signal, "alarm", alarms.append)
    step = Optimizer.step

    def stepping(self: Optimizer, *arguments: Any) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(Optimizer, "step", stepping)
    assert bench.run("paused").status["state"] == "stopped"
    assert not alarms
    parents = iter([1])
    monkeypatch.setattr(orphans.os, "getppid", lambda: next(parents, 2))
    assert bench.run("of a shell").status["state"] == "stopped"
    assert not alarms
    monkeypatch.setenv(orphans.MARK, "1")
    parents = iter([1])
    assert bench.run("orphan").status["state"] == "stopped"
    assert alarms == [orphans.SECONDS]


def test_a_checkpoint_that_takes_long_shows_that_it_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_AT_ONCE", 10)
    beats: list[int] = []
    kept = Checkpoints(tmp_path / "checkpoints", 2)
    written = kept.write(
        1, {"a": b"0123456789abcdefghijKLM", "b": [b"1234567", b"89012"]}, 1, lambda: beats.append(1)
    )
    assert len(beats) == 3
    assert (written / "a").read_bytes() == b"0123456789abcdefghijKLM"
    assert (written / "b").read_bytes() == b"123456789012"
    assert is_whole(written)


@pytest.mark.parametrize("on_the_way_back", [False, True])
def test_told_to_stop_within_a_pass_it_does_not_go_through_it(on_the_way_back: bool, bench: Bench) -> None:
    """Which may take minutes where others compute."""
    whole = bench.run("whole", max_steps=50, checkpoint_every=40)
    attend, told = PackedAttention.__call__, 0

    def telling(self: PackedAttention, layer: int, *tensors: torch.Tensor) -> torch.Tensor:
        nonlocal told
        out = attend(self, layer, *tensors)
        told += told > 0
        if max(Trained(bench.folder / "cut", 0).losses, default=0) == 3 and not told and out.requires_grad:
            told = 1
            if on_the_way_back:
                out.register_hook(lambda _: os.kill(os.getpid(), signal.SIGTERM))
            else:
                os.kill(os.getpid(), signal.SIGTERM)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedAttention, "__call__", telling)
        cut = bench.run("cut", max_steps=50, checkpoint_every=40)
    assert cut.exit_status == EXIT_STATUS["stopped"]
    assert told <= (2 if on_the_way_back else 1)  # of its two layers
    assert [line["step"] for line in cut.lines("checkpoint")] == [3] == [max(cut.losses)]
    assert bench.run("cut", max_steps=50, checkpoint_every=40).losses == whole.losses


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_learning_gives_way_to_all_others_and_saving_does_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bench.run("whole")
    asked: list[tuple[str, int]] = []  # by which thread
    learning: set[str] = set()
    saving: set[str] = set()
    write, summed_loss = Checkpoints.write, Learner.summed_loss

    def me() -> str:
        return threading.current_thread().name

    def writing(self: Checkpoints, *what: Any) -> None:
        saving.add(me())
        write(self, *what)

    def computing(self: Learner, *what: Any, **options: Any) -> torch.Tensor:
        learning.add(me())
        return summed_loss(self, *what, **options)

    monkeypatch.setattr(os, "getpriority", lambda *_: 10)
    monkeypatch.setattr(os, "setpriority", lambda which, who, nice: asked.append((me(), nice)))
    monkeypatch.setattr(os, "sched_setscheduler", lambda who, policy, _: asked.append((me(), policy)))
    monkeypatch.setattr(Checkpoints, "write", writing)
    monkeypatch.setattr(Learner, "summed_loss", computing)
    assert main([str(bench.spec("apart"))], gives_way=True) == 0
    assert learning == {"learning"}
    assert asked == [("learning", 19), ("learning", os.SCHED_IDLE)]
    assert saving == {me()}
    assert Trained(bench.folder / "apart", 0).losses == whole.losses


def test_a_half_written_checkpoint_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path / "checkpoints", 2)
    first = kept.write(1, {"a": b"1", "b": b"2"}, 1)
    second = kept.write(2, {"a": b"3", "b": b"4"}, 1)
    assert kept.last() == second
    (second / "b").write_bytes(b"5")
    assert kept.last() == first

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "is_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "checkpoints" / "step-00000003", {"a": b"6"})
    monkeypatch.undo()
    assert kept.last() == first
    # As after kill -9, when nobody cleans up.
    half = tmp_path / "checkpoints" / ".aside-step-00000003"
    half.mkdir()
    (half / "a").write_bytes(b"6")
    assert kept.last() == first
    assert not half.exists()
    assert not is_whole(tmp_path)


def test_a_kill_while_a_checkpoint_is_replaced_leaves_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path / "checkpoints", 2)
    kept.write(1, {"a": b"old"}, 1)
    moments: list[Path] = []  # what a kill would leave
    rename, rmtree = Path.rename, shutil.rmtree

    def seen() -> None:
        moments.append(tmp_path / f"{len(moments)}")
        shutil.copytree(tmp_path / "checkpoints", moments[-1])

    def renaming(path: Path, target: Path) -> Path:
        path = rename(path, target)
        seen()
        return path

    def removing(folder: Path, **options: Any) -> None:
        for file in folder.glob("*"):
            file.unlink()
            seen()
        rmtree(folder, **options)
        seen()

    monkeypatch.setattr(Path, "rename", renaming)
    monkeypatch.setattr(shutil, "rmtree", removing)
    kept.write(1, {"a": b"new"}, 1)
    monkeypatch.undo()
    found = []
    for moment in moments:
        last = Checkpoints(moment, 2).last()
        assert last is not None
        found.append((last / "a").read_bytes())
        assert [folder.name for folder in moment.iterdir()] == ["step-00000001"]
    assert found == sorted(found, reverse=True)
    assert {*found} == {b"old", b"new"}


def test_a_folder_that_cannot_be_replaced_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "adapter"
    write_folder(folder, {"a": b"old"})
    rename = Path.rename

    def broken(path: Path, target: Path) -> Path:
        if path.name == ".aside-adapter":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_folder(folder, {"a": b"new"})
    assert (folder / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    monkeypatch.undo()
    shutil.copytree(folder, tmp_path / ".aside-old-adapter")  # as a kill after the replacing leaves it
    write_folder(folder, {"a": b"new"})
    assert (folder / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_file_of_tensors_is_what_safetensors_reads(tmp_path: Path) -> None:
    made = {
        "é": torch.randn(3, 5),
        "none": torch.empty(0, 4),
        "step": torch.tensor(7.0),
        "turned": torch.randn(4, 2).t(),
        "low": torch.randn(3).bfloat16(),
        "ids": torch.arange(3),
    }
    write_folder(tmp_path / "a", {"t.safetensors": tensor_files.pieces(made)})
    file = tmp_path / "a" / "t.safetensors"
    for found in (safetensors.torch.load_file(file), dict(tensor_files.stored(file))):
        assert found.keys() == made.keys()
        for name, tensor in made.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found[name], tensor)


def test_checkpoints_of_another_job_are_not_gone_on_from(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.run(max_steps=2)
    again = bench.run(max_steps=2, seed=1)
    assert again.exit_status == EXIT_STATUS["checkpoint"]
    assert "another" in again.status["message"]
    assert json.loads(capfd.readouterr().err.splitlines()[-1])["error"] == "checkpoint"


@pytest.fixture
def documents(bench: Bench) -> Bench:
    """Longer than what is read at once, so how many steps there are depends on how much that is."""
    texts: list[Example] = [DocumentExample("the quick brown fox jumps over the lazy dog " * 4)] * 8
    bench.dataset = freeze(bench.folder / "d", "document", train=texts, validation=texts[:2])
    return bench


_DIVIDED: dict[str, Any] = {"epochs": 1, "max_steps": 0, "checkpoint_every": "auto"}


def test_a_machine_that_would_divide_documents_otherwise_does_not_go_on(
    documents: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(choices.MOST_LENGTH, "cpu", 16)
    begun = documents.run(**_DIVIDED)
    monkeypatch.setitem(choices.MOST_LENGTH, "cpu", 32)  # as on a GPU
    done = documents.run(**_DIVIDED)
    assert done.exit_status == EXIT_STATUS["checkpoint"]
    assert "up to 16 tokens, and here up to 32" in done.status["message"]
    assert done.losses == begun.losses
    assert not done.lines("resumed")


def test_a_checkpoint_beyond_the_last_step_is_the_end(
    documents: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(choices.MOST_LENGTH, "cpu", 16)
    begun = documents.run(**_DIVIDED)
    _write_state_of_before(documents.folder / "out" / "checkpoints")
    monkeypatch.setitem(choices.MOST_LENGTH, "cpu", 64)
    done = documents.run(**_DIVIDED)
    assert done.status["state"] == "succeeded"
    (resumed,) = done.lines("resumed")
    assert resumed["step"] == max(begun.losses) == done.status["step"] > done.status["steps"]
    assert not resumed["exact"]
    assert done.losses == begun.losses


def _write_state_of_before(kept: Path) -> None:
    """The last checkpoint, as it was when it said neither the device nor the length."""
    last = max(kept.glob("step-*"))
    files = {file.name: file.read_bytes() for file in last.iterdir() if file.name != "manifest.json"}
    state = json.loads(files["state.json"])
    files["state.json"] = json.dumps(
        {name: state[name] for name in state.keys() - {"device", "max_length"}}
    ).encode()
    write_folder(last, files)


def test_what_a_spec_has_gained_since_makes_no_other_job_of_it() -> None:
    """Or what was begun by the version before could not go on."""
    before = "85c0e0ad775d48e6edf84ddde1a1276d25c71d6d2f7064e4c64403c3821fff97"
    spec = Spec(base="base", dataset="data", output="out")
    assert state.identity(spec, "data", "model") == before
    judged = Spec(base="base", dataset="data", output="out", validation_length=64)
    assert state.identity(judged, "data", "model") != before


def test_a_job_whose_device_was_left_to_us_goes_on_where_the_same_one_is_named(bench: Bench) -> None:
    bench.run(max_steps=2)
    again = bench.run(max_steps=2, device="cpu")
    assert again.exit_status == 0
    (resumed,) = again.lines("resumed")
    assert resumed["exact"]


def test_a_job_that_was_begun_as_one_of_a_named_device_goes_on_where_it_is_not_named(bench: Bench) -> None:
    identity = state.identity
    with pytest.MonkeyPatch.context() as patch:  # as it was before
        patch.setattr(
            trainer_job, "identity", lambda spec, data, model, _: identity(spec, data, model, spec.device)
        )
        bench.run(max_steps=2, device="cpu")
    for _ in range(2):
        assert bench.run(max_steps=2).exit_status == 0
