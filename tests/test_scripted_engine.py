"""The scripted engine keeps the real one's contract, or tests built on it prove nothing."""

from __future__ import annotations

import pytest

from inference.engine.interface import PromptTooLong, Request, StepOutput
from inference.parameters import SamplingParams
from tests.scripted_engine import ScriptedEngine, text_of


def request(content: str = "hello", **fields: object) -> Request:
    return Request(id="r", messages=[{"role": "user", "content": content}], **fields)  # type: ignore[arg-type]


def run(engine: ScriptedEngine, steps: int = 10_000) -> list[StepOutput]:
    outputs = []
    while engine.has_work and len(outputs) < steps:
        outputs += engine.step()
    return outputs


def test_its_text_is_a_function_of_the_seed() -> None:
    engine = ScriptedEngine(rate=5000, tokens=200)
    engine.submit(request(seed=7))
    outputs = run(engine)
    assert "".join(o.text for o in outputs) == text_of(7, 200)
    assert "🙂" in text_of(7, 200)
    assert outputs[-1].finish_reason == "length"


@pytest.mark.parametrize("resumed_after", range(60))
def test_it_resumes_after_any_token(resumed_after: int) -> None:
    engine = ScriptedEngine(rate=5000, tokens=60)
    engine.submit(request(seed=3))
    first = run(engine)[:resumed_after]
    engine = ScriptedEngine(rate=5000, tokens=60)
    engine.submit(request(seed=3, prior_token_ids=[i for o in first for i in o.token_ids]))
    assert "".join(o.text for o in [*first, *run(engine)]) == text_of(3, 60)


def test_a_stop_string_across_tokens_ends_the_text_before_it() -> None:
    whole = text_of(5, 100)
    stop = whole[40:60]
    engine = ScriptedEngine(rate=5000, tokens=100)
    engine.submit(request(seed=5, sampling=SamplingParams(stop=(stop,))))
    outputs = run(engine)
    assert "".join(o.text for o in outputs) == whole[: whole.index(stop)]
    assert outputs[-1].finish_reason == "stop"


def test_a_cancelled_request_ends_at_the_next_step() -> None:
    engine = ScriptedEngine(rate=1, tokens=100)
    engine.submit(request())
    engine.cancel("r")
    assert [o.finish_reason for o in engine.step()] == ["cancelled"]
    assert not engine.has_work


def test_it_drops_the_oldest_turns_or_refuses() -> None:
    turns = [{"role": "user", "content": "word " * 5000}, {"role": "user", "content": "word " * 5000}]
    with pytest.raises(PromptTooLong):
        ScriptedEngine().submit(Request(id="r", messages=turns))
    admission = ScriptedEngine().submit(Request(id="r", messages=turns, truncate_oldest=True))
    assert admission.dropped_messages == 1


def test_the_message_may_say_how_long_the_answer_is_and_where_it_fails() -> None:
    engine = ScriptedEngine(rate=1)
    engine.submit(request("tokens=20 rate=5000 fail_after=10"))
    outputs = run(engine)
    assert len(outputs) == 11
    assert outputs[-1].finish_reason == "error"
