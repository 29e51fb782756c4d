"""A job from its spec to what it leaves behind: `python -m training.trainer`, killed, stopped, resumed, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gguf
import msgspec
import pytest
import safetensors.torch
import torch

from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.engine.kv_cache import KVCache
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.running import needs_gpu
from tests.inference.tiny_models import save_gguf
from tests.services import wait_until
from tests.training.trainer import started
from tests.training.trainer.conftest import freeze
from training.datasets.examples import ChatExample, DocumentExample, Example, Message, TranslationExample
from training.trainer import checkpoints, choices, objective, samples, tensor_files
from training.trainer.attention import PackedAttention
from training.trainer.checkpoints import Checkpoints, is_whole, write_folder
from training.trainer.command import main
from training.trainer.failures import EXIT_STATUS
from training.trainer.job import Job
from training.trainer.learner import Learner
from training.trainer.processes import Processes
from training.trainer.samples import Sample, Samples
from training.trainer.spec import RANGES

ROOT = Path(__file__).resolve().parents[3]


class Trained:
    """What a job wrote."""

    def __init__(self, output: Path, exit_status: int) -> None:
        self.output, self.exit_status = output, exit_status

    def lines(self, type: str) -> list[dict[str, Any]]:
        file = self.output / "metrics.jsonl"
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in found if line["type"] == type]

    @property
    def losses(self) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.lines("step")}

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.output / "status.json").read_text())
        return status


class Bench:
    """Runs jobs on one model and one dataset."""

    def __init__(self, folder: Path, base: Path, dataset: Path) -> None:
        self.folder, self.base, self.dataset = folder, base, dataset

    def spec(self, output: str = "out", **changes: Any) -> Path:
        values: dict[str, Any] = {
            "base": str(self.base),
            "dataset": str(self.dataset),
            "output": str(self.folder / output),
            "batch_size": 4,
            "learning_rate": 0.005,
            "precision": "fp32",
            "max_steps": 6,
            "checkpoint_every": 2,
            "threads": 1,
        }
        path = self.folder / "spec.json"
        path.write_text(json.dumps(values | changes))
        return path

    def run(self, output: str = "out", **changes: Any) -> Trained:
        return Trained(self.folder / output, main([str(self.spec(output, **changes))]))

    def start(self, output: str = "out", processes: int = 1, **changes: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "training.trainer", str(self.spec(output, **changes))]
        if processes > 1:
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
            command[1:2] = [*launch, "-m"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def bench(tmp_path: Path, tiny_base: Path, chats: Path) -> Bench:
    return Bench(tmp_path, tiny_base, chats)


def answer(base: Path, adapter: Path | None, prompt: str) -> str:
    """The engine's, which knows nothing of the trainer."""
    engine = load_engine(base, dtype="fp32", max_running=1)
    if adapter is not None:
        engine.load_adapter("a", adapter)
    sampling = SamplingParams(max_tokens=8, temperature=0.0)
    messages = [{"role": "user", "content": prompt}]
    engine.submit(
        Request(id="1", messages=messages, sampling=sampling, adapter="a" if adapter is not None else "")
    )
    text = ""
    while engine.has_work:
        text += "".join(output.text for output in engine.step())
    engine.close()
    return text


# --- From a spec to an adapter or a model ---------------------------------------------------------------------------
def test_a_job_learns_and_leaves_an_adapter_the_engine_serves(bench: Bench) -> None:
    prompts = ["fox jumps", "quick"]
    done = bench.run(
        max_steps=40, checkpoint_every=20, prompts=prompts, sample_tokens=8, lora={"dropout": 0.1}
    )
    assert done.exit_status == 0
    status = done.status
    assert (status["state"], status["step"], status["result"]) == ("succeeded", 40, "adapter")
    assert status["best_validation_loss"] < 0.9 * status["base_validation_loss"]
    assert done.lines("validation")[0]["loss"] == status["base_validation_loss"]
    samples = [(line["step"], line["prompt"]) for line in done.lines("sample")]
    assert samples == [(step, prompt) for step in (0, 20, 40) for prompt in prompts]
    assert status["best_step"] == 40
    last = done.lines("sample")[-1]
    assert last["answer"] == answer(bench.base, done.output / "adapter", prompts[1])
    assert last["answer"] != answer(bench.base, None, prompts[1])
    step = done.lines("step")[0]
    assert {"loss", "learning_rate", "tokens_per_second", "memory", "eta", "gradient_norm"} < step.keys()


def test_a_prompt_that_cannot_be_answered_says_why_each_time_and_the_others_are_answered(
    bench: Bench,
) -> None:
    prompts = ["fox jumps", "fox " * 5000, "quick"]
    done = bench.run(max_steps=2, checkpoint_every=1, prompts=prompts, sample_tokens=4)
    samples = [(line["step"], line["prompt"]) for line in done.lines("sample")]
    assert samples == [(step, prompt) for step in range(3) for prompt in (prompts[0], prompts[2])]
    failed = done.lines("sample_failed")
    assert [(line["step"], line["prompt"]) for line in failed] == [(step, prompts[1]) for step in range(3)]
    assert all("tokens too long" in line["why"] for line in failed)


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ((KVCache, "__init__"), torch.OutOfMemoryError("CUDA out of memory."), "enough memory beside the learning"),
        ((TorchEngine, "_forward"), torch.OutOfMemoryError("CUDA out of memory."), "There was not enough memory"),
        ((TorchEngine, "__init__"), RuntimeError("CUDA error: unknown error"), "an error on our side"),
    ],
)  # fmt: skip
def test_a_gpu_that_fails_while_prompts_are_asked_costs_the_answers_and_not_the_job(
    where: tuple[type, str], error: Exception, said: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no GPU here, so what torch would raise is raised in its place, at the second asking.
    def broken(*_: Any, **__: Any) -> None:
        raise error

    def answers(self: Samples, salt: str, *rest: Any) -> list[Sample]:
        if salt != "1":
            return sound(self, salt, *rest)
        with monkeypatch.context() as patch:
            patch.setattr(*where, broken)
            return sound(self, salt, *rest)

    sound = Samples.answers
    asked = {"max_steps": 2, "checkpoint_every": 1, "prompts": ["fox"], "sample_tokens": 4}
    alone = bench.run("alone", **asked)
    monkeypatch.setattr(Samples, "answers", answers)
    done = bench.run("beside", **asked)
    assert done.exit_status == 0
    (failed,) = done.lines("sample_failed")
    assert failed["step"] == 1
    assert said in failed["why"]
    assert [line["step"] for line in done.lines("sample")] == [0, 2]
    assert done.losses == alone.losses


def test_prompts_are_not_asked_where_there_is_no_room_beside_the_learning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "free_memory", lambda _device: 30_000_000)
    done = bench.run(max_steps=1, prompts=["fox"])
    assert done.exit_status == 0
    assert not done.lines("sample")
    assert [line["step"] for line in done.lines("sample_failed")] == [0, 1]
    assert "and 0.0 GB are free." in done.lines("sample_failed")[0]["why"]


@needs_gpu
def test_prompts_are_asked_beside_learning_on_a_gpu_and_what_that_took_is_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, taken = Job._ask, []

    def measured(job: Job, checkpoint: Path | None) -> None:
        before = torch.cuda.memory_allocated()
        ask(job, checkpoint)
        taken.append(torch.cuda.memory_allocated() - before)

    monkeypatch.setattr(Job, "_ask", measured)
    done = bench.run(device="cuda", max_steps=40, checkpoint_every=20, prompts=["fox jumps"], sample_tokens=8)
    assert done.exit_status == 0
    assert not done.lines("sample_failed")
    assert [line["step"] for line in done.lines("sample")] == [0, 20, 40]
    assert max(taken) < 2**20


def test_all_weights_are_left_as_a_model_folder(bench: Bench) -> None:
    done = bench.run(method="full", max_steps=20, checkpoint_every=10, prompts=["fox"], sample_tokens=8)
    assert done.exit_status == 0
    assert done.status["result"] == "model"
    assert done.status["best_validation_loss"] < 0.9 * done.status["base_validation_loss"]
    assert done.lines("sample")[-1]["answer"] == answer(done.output / "model", None, "fox")


def test_all_weights_of_a_gguf_are_left_as_a_gguf(bench: Bench) -> None:
    bench.base = bench.folder / "base.gguf"
    save_gguf(bench.base, gguf.GGMLQuantizationType.Q8_0, rope_factor=1.5)
    done = bench.run(method="full", max_steps=4, learning_rate=1e-4, prompts=["fox"], sample_tokens=8)
    assert done.exit_status == 0
    assert done.lines("sample")[-1]["answer"] == answer(done.output / "model", None, "fox")
    before, after = (gguf.GGUFReader(path) for path in (bench.base, done.output / "model" / "model.gguf"))
    for name in before.fields:
        if name.startswith("tokenizer."):
            assert before.fields[name].contents() == after.fields[name].contents()


@pytest.mark.parametrize("kind", ["document", "translation"])
def test_documents_and_translations_are_learnt_by_the_same_loop(kind: str, bench: Bench) -> None:
    examples: list[Example] = (
        [DocumentExample("the quick brown fox jumps over the lazy dog " * (1 + n % 3)) for n in range(8)]
        if kind == "document"
        else [TranslationExample(f"{n}", "dog") for n in range(8)]
    )
    bench.dataset = freeze(bench.folder / "d", kind, train=examples, validation=examples[:2])  # type: ignore[arg-type]
    done = bench.run(max_length=64, max_steps=12, checkpoint_every=6)
    assert done.status["best_validation_loss"] < done.status["base_validation_loss"]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_knobs_of_optimisation_do_what_they_say(optimizer: str, bench: Bench) -> None:
    done = bench.run(
        optimizer=optimizer, schedule="linear", warmup=0.5, weight_decay=0.1, l1=1e-5, label_smoothing=0.1
    )
    rates = [line["learning_rate"] for line in done.lines("step")]
    wanted = [0.005 * share for share in (1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3)]
    assert rates == pytest.approx(wanted)
    assert done.status["state"] == "succeeded"


def test_it_stops_when_it_gets_no_better_and_keeps_the_best(bench: Bench) -> None:
    done = bench.run(max_steps=200, checkpoint_every=4, patience=2, learning_rate=0.05, keep_checkpoints=1)
    (early,) = done.lines("stopped_early")
    assert early["step"] == early["best_step"] + 8 < 200
    validation = {line["step"]: line["loss"] for line in done.lines("validation")}
    assert min(validation.values()) == validation[early["best_step"]] == done.status["best_validation_loss"]
    kept = {folder.name for folder in (done.output / "checkpoints").iterdir()}
    assert kept == {f"step-{step:08d}" for step in (early["best_step"], early["step"])}
    adapter = (done.output / "adapter" / "adapter_model.safetensors").read_bytes()
    best = done.output / "checkpoints" / f"step-{early['best_step']:08d}" / "adapter_model.safetensors"
    assert adapter == best.read_bytes()


def test_what_was_left_to_us_is_said_with_the_reason(bench: Bench) -> None:
    done = bench.run(batch_size="auto", learning_rate="auto", checkpoint_every="auto", precision="auto")
    chosen = {line["knob"]: line for line in done.lines("chosen")}
    assert {
        "batch_size",
        "learning_rate",
        "checkpoint_every",
        "precision",
        "max_length",
        "device",
    } < chosen.keys()
    assert all(line["why"].endswith(".") for line in chosen.values())
    assert chosen["batch_size"]["value"] == 3


# --- Interrupted -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_job_that_is_killed_and_goes_on_computes_the_same_losses(method: str, bench: Bench) -> None:
    options: dict[str, Any] = {"method": method, "max_steps": 9, "lora": {"dropout": 0.2}}
    whole = bench.run("whole", **options)
    process = bench.start("cut", **options)
    _wait_for_step(bench.folder / "cut", 5)
    process.kill()
    process.communicate()
    cut = bench.run("cut", **options)
    (resumed,) = cut.lines("resumed")
    assert resumed["step"] in (4, 6)
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


def _wait_for_step(output: Path, step: int) -> None:
    wait_until(lambda: max(Trained(output, 0).losses, default=0) >= step, f"step {step}", 120)


def test_told_to_stop_it_saves_what_it_learnt_and_says_so(bench: Bench) -> None:
    whole = bench.run("whole", max_steps=50, checkpoint_every=40)
    process = bench.start("cut", max_steps=50, checkpoint_every=40)
    _wait_for_step(bench.folder / "cut", 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == EXIT_STATUS["stopped"] == 3
    cut = Trained(bench.folder / "cut", 3)
    assert cut.status["state"] == "stopped"
    (saved,) = cut.lines("checkpoint")
    assert saved["step"] == max(cut.losses)
    again = bench.run("cut", max_steps=50, checkpoint_every=40)
    assert again.losses == whole.losses


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
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run(max_steps=2)
    again = bench.run(max_steps=2, seed=1)
    assert again.exit_status == EXIT_STATUS["checkpoint"]
    assert "another" in again.status["message"]
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"] == "checkpoint"


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
    monkeypatch.setitem(choices._MOST_LENGTH, "cpu", 16)
    begun = documents.run(**_DIVIDED)
    monkeypatch.setitem(choices._MOST_LENGTH, "cpu", 32)  # as on a GPU
    done = documents.run(**_DIVIDED)
    assert done.exit_status == EXIT_STATUS["checkpoint"]
    assert "up to 16 tokens, and here up to 32" in done.status["message"]
    assert done.losses == begun.losses
    assert not done.lines("resumed")


def test_a_checkpoint_beyond_the_last_step_is_the_end(
    documents: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(choices._MOST_LENGTH, "cpu", 16)
    begun = documents.run(**_DIVIDED)
    _write_state_of_before(documents.folder / "out" / "checkpoints")
    monkeypatch.setitem(choices._MOST_LENGTH, "cpu", 64)
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


def test_a_job_whose_device_was_left_to_us_goes_on_where_the_same_one_is_named(bench: Bench) -> None:
    bench.run(max_steps=2)
    again = bench.run(max_steps=2, device="cpu")
    assert again.exit_status == 0
    (resumed,) = again.lines("resumed")
    assert resumed["exact"]


def test_a_job_that_was_begun_as_one_of_a_named_device_goes_on_where_it_is_not_named(bench: Bench) -> None:
    identity = Job._identity
    with pytest.MonkeyPatch.context() as patch:  # as it was before
        patch.setattr(Job, "_identity", lambda job, device="": identity(job, job._spec.device))
        bench.run(max_steps=2, device="cpu")
    for _ in range(2):
        assert bench.run(max_steps=2).exit_status == 0


# --- Several processes ------------------------------------------------------------------------------------------
def test_two_processes_compute_what_one_does(bench: Bench) -> None:
    one = bench.run("one", microbatch_tokens=64)
    process = bench.start("two", processes=2, microbatch_tokens=64)
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    two = Trained(bench.folder / "two", 0)
    assert two.losses.keys() == one.losses.keys()
    for step, loss in one.losses.items():
        assert two.losses[step] == pytest.approx(loss, rel=1e-5)
    for mine, theirs in zip(two.lines("step"), one.lines("step"), strict=True):
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
    assert two.status["best_validation_loss"] == pytest.approx(one.status["best_validation_loss"], rel=1e-5)


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
    _wait_for_step(bench.folder / "two", 5)
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


# --- What cannot be trained ------------------------------------------------------------------------------------
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


def test_memory_that_runs_out_is_said_to_be_that(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> torch.Tensor:
        return torch.empty(2**60)

    monkeypatch.setattr(objective, "summed_cross_entropy", greedy)
    assert bench.run().status["error"] == "oom"


@pytest.mark.parametrize("knob", sorted(RANGES))
def test_an_absurd_knob_is_refused_with_its_range(
    knob: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    value = RANGES[knob][1] + 1
    name = knob.removeprefix("lora.")
    whole = name in ("r", "max_steps", "batch_size") or float(value).is_integer()
    changes = {name: int(value) if whole else value}
    done = bench.run(**({"lora": changes} if knob != name else changes))
    assert done.exit_status == EXIT_STATUS["spec"]
    message = json.loads(capsys.readouterr().err)["message"]
    assert knob in message
    assert f"{RANGES[knob][1]:g}" in message or "int" in message


def test_a_misspelt_knob_or_a_missing_file_is_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(learning_rat=1).exit_status == 2
    assert "learning_rat" in capsys.readouterr().err
    assert bench.run(lora={"targets": ["lm_head"]}).exit_status == 2
    assert "lm_head" in capsys.readouterr().err
    assert main(["nowhere.json"]) == main([]) == 2
    assert bench.run(base="/nowhere").exit_status == EXIT_STATUS["model"]
    assert bench.run("long", max_length=4096).status["error"] == "spec"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_in_a_sentence(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(device="cuda").exit_status == EXIT_STATUS["spec"]
    assert "no GPU" in json.loads(capsys.readouterr().err)["message"]


def test_status_is_one_struct_of_json(bench: Bench) -> None:
    done = bench.run(max_steps=2)
    assert msgspec.json.decode((done.output / "status.json").read_bytes())["steps"] == 2


@needs_gpu
def test_beside_an_engine_a_job_leaves_some_of_the_gpus_memory() -> None:
    Processes(torch.device("cuda"))
    assert torch.cuda.get_per_process_memory_fraction() < 0.95
