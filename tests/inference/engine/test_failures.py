"""A step that fails ends the requests in it, says so to each of them once, and leaves the engine intact and serving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine import engine as engine_module
from inference.engine.engine import TorchEngine
from inference.engine.interface import Pooling, StepOutput
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.running import GREEDY, Answer, ask, collect, run

TOKENS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def failing(function: Callable[..., Any], at: range, *, after: bool = False) -> Callable[..., Any]:
    """The same, but for the calls of these numbers, counted from 0; with `after`, these do their work first."""
    calls = iter(range(10**6))

    def call(*given: Any) -> Any:
        wrong = next(calls) in at
        result = None if wrong and not after else function(*given)
        if wrong:
            raise RuntimeError("out of memory")
        return result

    return call


class Failing:
    """A model whose forward passes of these numbers fail."""

    def __init__(self, model: Any, at: range, *, after: bool) -> None:
        self._model, self._forward = model, failing(model, at, after=after)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *given: Any) -> Any:
        return self._forward(*given)


def break_forward(engine: TorchEngine, at: range, *, after: bool = False) -> None:
    engine._model = Failing(engine._model, at, after=after)  # type: ignore[assignment]


@pytest.mark.parametrize("after", [False, True])
def test_a_failed_pass_ends_those_in_it_and_nobody_else(after: bool, tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32", max_running=2)
    (alone,) = run(engine, ask("The", "c", sampling=TOKENS))
    break_forward(engine, range(3, 4), after=after)
    a, b, c = run(engine, *(ask("The", id, sampling=TOKENS) for id in "abc"))
    assert (a.finish_reason, b.finish_reason, c.finish_reason) == ("error", "error", "length")
    assert len(a.token_ids) == len(b.token_ids) == 3
    assert "our side" in a.error
    assert c.token_ids == alone.token_ids
    engine.close()


def test_who_was_cancelled_before_a_failed_pass_has_been_cancelled(engine: TorchEngine) -> None:
    engine.submit(ask("The", "leaves", sampling=TOKENS))
    engine.submit(ask("The", "stays", sampling=TOKENS))
    engine.step()
    engine.cancel("leaves")
    break_forward(engine, range(1))
    assert {o.request_id: o.finish_reason for o in engine.step()} == {"leaves": "cancelled", "stays": "error"}
    engine.check_integrity()
    assert not engine.has_work


def test_an_answer_that_had_just_ended_when_the_pass_failed_is_said_to_have_ended_once(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure comes between the first request's last token and the second's."""
    one_token = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    engine.submit(ask("The", "first", sampling=one_token))
    engine.submit(ask("And", "second", sampling=one_token))
    monkeypatch.setattr(engine, "_take", failing(engine._take, range(1, 2)))
    outputs = engine.step()
    assert sorted((o.request_id, o.finish_reason) for o in outputs) == [
        ("first", "error"),
        ("second", "error"),
    ]
    engine.check_integrity()
    assert not engine.has_work


@pytest.mark.parametrize("kind", ["scored", "pooled"])
def test_what_is_read_of_a_prompt_fails_with_its_pass(kind: str, engine: TorchEngine) -> None:
    changes: dict[str, Any] = {"pooling": Pooling()} if kind == "pooled" else {}
    scoring = SamplingParams(max_tokens=0, prompt_logprobs=1)
    break_forward(engine, range(1), after=True)
    request = ask("The " * 30, sampling=GREEDY if changes else scoring, **changes)
    (answer,) = run(engine, request)
    assert answer.finish_reason == "error"
    engine.submit(request)
    outputs: list[StepOutput] = engine.step()
    assert [output.finish_reason for output in outputs] == ["length"]


def test_a_prompt_that_was_read_before_the_pass_failed_has_ended_once(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.submit(ask("The", "read", pooling=Pooling()))
    engine.submit(ask("The", "answered", sampling=TOKENS))
    monkeypatch.setattr(engine, "_choose", failing(engine._choose, range(1)))
    ends = [(output.request_id, output.finish_reason) for output in engine.step()]
    assert sorted(ends) == [("answered", "error"), ("read", "length")]
    engine.check_integrity()


def test_what_a_failed_pass_may_have_written_is_never_found(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32")
    long = "one two three four " * 20
    # The second uses memory of which it fills a part only.
    (before, short) = run(
        load_engine(tiny_folder, dtype="fp32"),
        ask(long, "a", sampling=TOKENS),
        ask("The", "b", sampling=TOKENS),
    )
    real = engine._cache.write

    def garbage(layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        real(layer, slots, key * torch.nan, value * torch.nan)
        raise RuntimeError("the device took something in that it should not have")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._cache, "write", garbage)
        (broken,) = run(engine, ask(long, sampling=TOKENS))
    assert broken.finish_reason == "error"
    assert run(engine, ask("The", sampling=TOKENS))[0].token_ids == short.token_ids
    assert run(engine, ask(long, sampling=TOKENS))[0].token_ids == before.token_ids
    engine.close()


def test_an_engine_that_fails_again_and_again_says_so(engine: TorchEngine) -> None:
    """Only a new process gets a lost device back."""
    break_forward(engine, range(1, 100))
    assert run(engine, ask("The", sampling=SamplingParams(max_tokens=1)))[0].finish_reason == "length"
    for _ in range(engine_module._MAX_FAILED_STEPS - 1):
        assert run(engine, ask("The", sampling=TOKENS))[0].finish_reason == "error"
    engine.submit(ask("The"))
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()


def test_failures_with_sound_steps_between_them_are_no_reason_to_give_up(engine: TorchEngine) -> None:
    for n in range(10):
        break_forward(engine, range(1, 2))
        answers = {str(n): Answer()}
        engine.submit(ask("The", str(n), sampling=TOKENS))
        collect(engine, answers)
        assert answers[str(n)].finish_reason == "error"
    engine.check_integrity()
