"""Fine-tuning against TRL with PEFT, and a small corpus from its wheel to an adapter. See docs/benchmarks.md."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings

from tests.demo_model import demo_model
from tests.load.bench import Row
from tests.load.lessons import chatterbot, frozen, of_mixed_lengths
from tests.load.peers import TRANSFORMERS, TRL, Unavailable
from tests.load.throughput import demo_gguf
from training.datasets.examples import ChatExample
from training.datasets.frozen import read_split
from training.datasets.recipe import Split
from training.trainer.spec import MODULES
from training.trainer_process import TRAINER

_CONVERSATIONS = 150
_RANK, _ALPHA, _BATCH, _RATE = 16, 32, 8, 5e-4
_PROMPTS = ["Are you a robot?", "What is your favorite food?", "Tell me a joke."]


@dataclass(frozen=True)
class Trained:
    """What a job did, in all its steps together."""

    tokens: int  # that are learnt
    seconds: float  # of its steps
    base: float  # nats a token of the validation split, before
    loss: float  # and of what is left behind, the best
    bytes: int  # resident at most


def _train(folder: Path, dataset: Path, **spec: Any) -> tuple[Trained, list[dict[str, Any]]]:
    """By the program a worker starts, and the lines it left."""
    output = folder / "job"
    file = folder / "spec.json"
    values = {"base": str(demo_model()), "dataset": str(dataset), "output": str(output)} | spec
    file.write_text(json.dumps(values))
    process = subprocess.Popen([sys.executable, "-m", "training.launcher", "1", str(TRAINER), str(file)])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"The trainer ended with exit status {process.returncode}.")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["type"] == "step"]
    losses = [line["loss"] for line in lines if line["type"] == "validation"]
    return Trained(
        tokens=sum(line["trained_tokens"] for line in steps),
        seconds=sum(line["seconds"] for line in steps),
        base=losses[0],
        loss=min(losses[1:]),
        bytes=used.ru_maxrss * 1024,
    ), lines


@cache
def _side_by_side() -> tuple[Trained, Trained | Unavailable]:
    """One epoch of both, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = frozen(of_mixed_lengths(_CONVERSATIONS), folder, Split(validation=0.15, test=0))
        ours, _ = _train(
            folder, dataset, epochs=1, batch_size=_BATCH, learning_rate=_RATE, schedule="linear", warmup=0,
            precision="bf16", lora={"r": _RANK, "alpha": _ALPHA}, max_length=1024, checkpoint_every=10_000,
        )  # fmt: skip
        _say("ours", ours)
        gguf = demo_gguf()
        copy = settings.MODEL_CACHE / "dequantised" / gguf.stem
        copy.parent.mkdir(exist_ok=True)
        arguments = {
            "num_train_epochs": 1, "per_device_train_batch_size": _BATCH, "learning_rate": _RATE,
            "lr_scheduler_type": "linear", "max_length": 1024,
        }  # fmt: skip
        lora = {"r": _RANK, "lora_alpha": _ALPHA, "target_modules": list(MODULES)}
        try:
            TRANSFORMERS.measure(model=str(gguf), folder=str(copy), runs=[])  # makes the copy
            measured = TRL.measure(
                model=str(gguf), folder=str(copy), arguments=arguments, lora=lora,
                train=_messages(dataset, "train"), validation=_messages(dataset, "validation"),
            )  # fmt: skip
        except Unavailable as error:
            return ours, error
        peer = Trained(**measured)
        _say("trl", peer)
        if peer.tokens != ours.tokens:
            raise RuntimeError(f"TRL learns {peer.tokens} tokens of what is {ours.tokens} here.")
        return ours, peer


def _messages(dataset: Path, split: str) -> list[list[dict[str, str]]]:
    examples = [example for example in read_split(dataset, split) if isinstance(example, ChatExample)]
    return [[{"role": m.role, "content": m.content} for m in example.messages] for example in examples]


def _say(name: str, trained: Trained) -> None:
    rate = trained.tokens / trained.seconds
    print(
        f"    {name:12} {rate:.0f} trained tokens a second, validation loss {trained.base:.4f} to {trained.loss:.4f}, "
        f"{trained.bytes / 1e6:.0f} MB",
        flush=True,
    )


def speed() -> Iterator[Row]:
    ours, peer = _side_by_side()
    rate = ours.tokens / ours.seconds
    if isinstance(peer, Unavailable):
        yield Row.without_peer("trainer.speed.trl", rate, str(peer), "tokens/s", 1.5)
    else:
        yield Row.at_least("trainer.speed.trl", rate, peer.tokens / peer.seconds, "tokens/s", 1.5)


def loss() -> Iterator[Row]:
    """At most 1 % above."""
    ours, peer = _side_by_side()
    if isinstance(peer, Unavailable):
        yield Row.without_peer("trainer.loss.trl", ours.loss, str(peer), "nats", 0.99)
    else:
        yield Row("trainer.loss.trl", ours.loss, peer.loss, "nats", peer.loss / ours.loss, 0.99)


def memory() -> Iterator[Row]:
    ours, peer = _side_by_side()
    mine = ours.bytes / 1e6
    if isinstance(peer, Unavailable):
        yield Row.without_peer("trainer.memory.trl", mine, str(peer), "MB", 1.0)
    else:
        yield Row("trainer.memory.trl", mine, peer.bytes / 1e6, "MB", peer.bytes / ours.bytes, 1.0)


def small_corpus() -> Iterator[Row]:
    """With every default; the clock runs from the wheel's texts to the adapter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conversations = list(chatterbot(settings.MODEL_CACHE))
        started = time.monotonic()
        dataset = frozen(conversations, folder, Split())
        trained, lines = _train(folder, dataset, prompts=_PROMPTS)
        seconds = time.monotonic() - started
        samples = [line for line in lines if line["type"] == "sample"]
        for line in samples[: len(_PROMPTS)] + samples[-len(_PROMPTS) :]:
            print(f"    after {line['step']:3} steps, {line['prompt']} {line['answer']!r}", flush=True)
    _say("ours", trained)
    yield Row.at_most("trainer.chatterbot.seconds", seconds, 600, "s")
    before, after = math.exp(trained.base), math.exp(trained.loss)
    # At least a quarter below the base's.
    yield Row("trainer.chatterbot.perplexity", after, before, "perplexity", 0.75 * before / after, 1.0)
