"""A job from its spec to what it leaves behind: an adapter or a model, sample answers, what it chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.engine.kv_cache import KVCache
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.running import needs_gpu
from tests.inference.tiny_models import save_gguf
from tests.training.trainer.conftest import freeze
from tests.training.trainer.jobs import Bench
from training.datasets.examples import DocumentExample, Example, TranslationExample
from training.trainer import samples
from training.trainer.job import Job
from training.trainer.record import Record
from training.trainer.samples import Sample, Samples


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


def test_what_takes_a_while_beside_the_steps_is_in_its_status_while_it_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, beat = [""], Record.beat

    def noted(self: Record, **hurried: bool) -> None:
        beat(self, **hurried)
        doing = json.loads((bench.folder / "out" / "status.json").read_text())["doing"]
        if doing != seen[-1]:
            seen.append(doing)

    monkeypatch.setattr(Record, "beat", noted)
    assert bench.run(max_steps=1, prompts=["fox"], sample_tokens=2).exit_status == 0
    assert [doing for doing in seen if doing] == [
        "evaluating",
        "asking",
        "evaluating",
        "saving",
        "asking",
        "finishing",
    ]


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

    sound = Samples._answers
    asked = {"max_steps": 2, "checkpoint_every": 1, "prompts": ["fox"], "sample_tokens": 4}
    alone = bench.run("alone", **asked)
    monkeypatch.setattr(Samples, "_answers", answers)
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
