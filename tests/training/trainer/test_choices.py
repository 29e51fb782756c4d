"""What "auto" comes to on machines that are not at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine import device
from tests.training.trainer.jobs import Bench
from training.trainer import choices
from training.trainer.choices import Choices
from training.trainer.failures import EXIT_STATUS
from training.trainer.spec import Spec


@pytest.mark.parametrize(
    ("capability", "precision", "why"),
    [
        ((7, 5), "fp32", "bf16 is not fast here."),
        ((8, 0), "bf16", "This machine multiplies bf16 in hardware."),
    ],
)
def test_a_gpu_learns_in_bf16_where_it_multiplies_that_in_hardware(
    capability: tuple[int, int], precision: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = Choices()
    spec = Spec(base="b", dataset="d", output="o")
    assert chosen.precision(spec, torch.device("cuda")) == precision
    assert [(made.value, made.why) for made in chosen.made] == [(precision, why)]


def test_bf16_that_was_left_to_us_takes_as_little_memory_as_bf16_that_was_asked_for(
    tmp_path: Path, tiny_base: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, tiny_base, chats)
    monkeypatch.setattr(choices, "resolve_dtype", lambda dtype, device: "bf16")
    monkeypatch.setattr(choices, "free_memory", lambda device: 8 * 2**20)

    auto, bf16, fp32 = (tokens_of_a_pass(bench, precision=name) for name in ("auto", "bf16", "fp32"))
    assert auto == bf16 > fp32


def test_where_all_weights_are_learnt_a_pass_leaves_room_for_what_is_kept_of_them(
    tmp_path: Path, tiny_base: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, tiny_base, chats)
    monkeypatch.setattr(choices, "free_memory", lambda device: 6 * 2**20)
    assert tokens_of_a_pass(bench, method="full") < tokens_of_a_pass(bench, method="lora")


def tokens_of_a_pass(bench: Bench, **knobs: str) -> Any:
    done = bench.run("-".join(knobs.values()), microbatch_tokens="auto", max_steps=1, **knobs)
    (line,) = (line for line in done.lines("chosen") if line["knob"] == "microbatch_tokens")
    return line["value"]


def found_but(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """A GPU that is there, and what comes of it."""

    def broken(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch, "ones", broken)


def test_a_gpu_that_does_not_work_is_left_alone_unless_it_was_asked_for(
    tmp_path: Path,
    tiny_base: Path,
    chats: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bench = Bench(tmp_path, tiny_base, chats)
    with monkeypatch.context() as patch:
        found_but(patch, "CUDA error: no kernel image is available\nand more")
        done = bench.run(max_steps=1)
        assert done.exit_status == 0
        assert {line["value"] for line in done.lines("chosen") if line["knob"] == "device"} == {"cpu"}
        assert bench.run("asked", device="cuda").exit_status == EXIT_STATUS["spec"]
        assert "no kernel image is available" in capfd.readouterr().err


def test_a_gpu_that_others_have_filled_is_not_left_for_the_slow_processor(
    tmp_path: Path, tiny_base: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, tiny_base, chats)
    with monkeypatch.context() as patch:
        found_but(patch, "CUDA error: out of memory")
        assert bench.run(max_steps=1).exit_status == EXIT_STATUS["oom"]
