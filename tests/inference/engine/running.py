"""Drives an engine the way its worker does, and keeps what came of it: for tests of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.parameters import SamplingParams

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ("cpu", pytest.param("cuda", marks=needs_gpu))
GREEDY = SamplingParams(temperature=0, max_tokens=32)


@dataclass
class Answer:
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    error: str = ""
    pieces: list[str] = field(default_factory=list)
    cached_tokens: int = 0


def ask(prompt: str, id: str = "one", **changes: Any) -> Request:
    return Request(id=id, prompt=prompt, **{"sampling": GREEDY} | changes)


def chat(said: str, id: str = "one", **changes: Any) -> Request:
    return Request(id=id, messages=[{"role": "user", "content": said}], **{"sampling": GREEDY} | changes)


def run(engine: TorchEngine, *requests: Request) -> list[Answer]:
    """All of them at once, to the end; every block must be back afterwards."""
    answers = {request.id: Answer() for request in requests}
    for request in requests:
        engine.submit(request)
    collect(engine, answers)
    engine.check_integrity()
    return list(answers.values())


def collect(engine: TorchEngine, answers: dict[str, Answer], steps: int | None = None) -> None:
    """What so many steps make [all]."""
    for step in range(100_000):
        if not engine.has_work or step == steps:
            return
        for output in engine.step():
            answer = answers[output.request_id]
            assert answer.finish_reason is None, "something came after the end"
            answer.text += output.text
            answer.pieces.append(output.text)
            answer.token_ids += output.token_ids
            answer.cached_tokens = output.cached_tokens
            answer.finish_reason, answer.error = output.finish_reason, output.error
    raise AssertionError("the engine never became idle")


@torch.inference_mode()
def assert_greedy(
    reference: PreTrainedModel, prompt: list[int], answered: list[int], gap: float = 1e-3
) -> None:
    """Every answered token is the reference's likeliest after what came before, or as good as.

    One forward pass over prompt and answer: teacher forcing, so that a difference which does not count does not hide
    those that follow.
    """
    ids = torch.tensor([prompt + answered])
    logits = reference(ids, logits_to_keep=len(answered) + 1).logits[0, :-1].float()
    chosen = logits.gather(1, torch.tensor(answered).unsqueeze(1)).squeeze(1)
    short = logits.max(dim=1).values - chosen
    wrong = [(n, answered[n], float(short[n])) for n in range(len(answered)) if short[n] > gap]
    assert not wrong, f"not the likeliest tokens (position, token, logits short of the best): {wrong[:5]}"
