"""Logprobs, bias and several choices of one prompt: what comes beside the text, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, SequenceBiasLogitsProcessor

from inference.engine.blocks import BLOCK_SIZE
from inference.engine.engine import TorchEngine
from inference.engine.interface import InvalidRequest, Request, StepOutput, TokenLogprob
from inference.engine.loader import load_engine
from inference.engine.logprobs import best_of
from inference.engine.sampler import SamplingSettings, SamplingState, sample
from inference.parameters import JsonObject, JsonSchema, Regex, SamplingParams
from tests.inference.engine.running import ask, run
from tests.inference.tiny_models import save_model

LONG = "one two three four five six seven eight nine ten " * 8
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=20, ignore_eos=True)


def changed(**changes: Any) -> SamplingParams:
    return msgspec.structs.replace(SAMPLED, **changes)


def steps(engine: TorchEngine, *requests: Request) -> dict[str, list[StepOutput]]:
    outputs: dict[str, list[StepOutput]] = {}
    for request in requests:
        engine.submit(request)
        outputs[request.id] = []
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
    engine.check_integrity()
    return outputs


# --- Logprobs -----------------------------------------------------------------------------------------------
def test_logprobs_are_the_models_own_whatever_the_sampling(tmp_path: Path) -> None:
    save_model(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    engine = load_engine(tmp_path, dtype="fp32")
    steered = changed(logprobs=5, repetition_penalty=1.5, frequency_penalty=0.5, logit_bias={77: 9.0})
    requests = [
        ask("The", id="plain"),
        ask("The", id="none", sampling=changed(logprobs=0)),
        ask("A fox", id="five", sampling=changed(logprobs=5)),
        ask("def f", id="steered", sampling=steered),
    ]
    outputs = steps(engine, *requests)
    assert all(output.logprobs is None for output in outputs["plain"])
    for request in requests[1:]:
        tokens = [score for output in outputs[request.id] for score in output.logprobs or []]
        ids = [token for output in outputs[request.id] for token in output.token_ids]
        assert [score.token_id for score in tokens] == ids
        prompt = engine.encode_prompt(request)
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        for row, score in zip(logits.float().log_softmax(dim=-1), tokens, strict=True):
            assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-4)
            best = row.topk(request.sampling.logprobs or 0)
            assert [top.logprob for top in score.top] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert [top.token_id for top in score.top] == best.indices.tolist()
    engine.close()


def test_the_bytes_of_the_tokens_make_the_text(engine: TorchEngine) -> None:
    (outputs,) = steps(engine, ask("日本", sampling=changed(logprobs=1, max_tokens=60))).values()
    data = b"".join(score.token for output in outputs for score in output.logprobs or [])
    assert data.decode(errors="replace") == "".join(output.text for output in outputs)


def test_the_end_token_has_no_logprob_as_it_is_no_part_of_the_answer(engine: TorchEngine) -> None:
    end = min(engine._loaded.end_token_ids)
    sampling = SamplingParams(temperature=0, logprobs=2, logit_bias={end: 100.0})
    (output,) = steps(engine, ask("The", sampling=sampling))["one"]
    assert (output.finish_reason, output.logprobs) == ("stop", [])


def test_asking_for_logprobs_changes_no_token(engine: TorchEngine) -> None:
    (plain,) = run(engine, ask("The", sampling=SAMPLED))
    (asked,) = run(engine, ask("The", sampling=changed(logprobs=20)))
    assert asked.token_ids == plain.token_ids


# --- Bias ---------------------------------------------------------------------------------------------------
def test_a_bias_is_added_as_transformers_adds_it() -> None:
    row = torch.randn(1, 1000, generator=torch.Generator().manual_seed(1))
    bias = {3: 5.0, 999: -100.0, 41: 0.25}
    wanted = SequenceBiasLogitsProcessor({(id,): value for id, value in bias.items()})(
        torch.zeros(1, 1, dtype=torch.long), row.clone()
    )
    state = SamplingState(SamplingSettings(temperature=0), seed=0, choice=0)
    state.prepare([], bias)
    changed_row = row.clone()
    assert sample(changed_row, [state]) == [int(wanted.argmax())]
    assert torch.equal(changed_row, wanted)


def test_a_bias_is_one_requests_own(engine: TorchEngine) -> None:
    (alone,) = run(engine, ask("The", id="plain", sampling=SAMPLED))
    forced, plain = run(
        engine,
        ask("The", id="forced", sampling=changed(logit_bias={300: 100.0})),
        ask("The", id="plain", sampling=SAMPLED),
    )
    assert forced.token_ids == [300] * 20
    assert plain.token_ids == alone.token_ids


# --- Several choices of one prompt --------------------------------------------------------------------------
def choices(count: int, prompt: str = LONG, **changes: Any) -> list[Request]:
    return [ask(prompt, id=str(n), choice=n, **{"sampling": SAMPLED} | changes) for n in range(count)]


def test_the_choices_of_a_prompt_compute_it_once_and_say_what_they_say_alone(engine: TorchEngine) -> None:
    requests = choices(5)
    shared = (len(engine.encode_prompt(requests[0])) - 1) // BLOCK_SIZE * BLOCK_SIZE
    together = run(engine, *requests)
    assert engine.prefix_use.reused == 4 * shared
    assert len({tuple(answer.token_ids) for answer in together}) > 1
    assert [run(engine, request)[0].token_ids for request in requests] == [a.token_ids for a in together]


def test_choices_of_a_prompt_wait_for_nobody_elses_prompt(engine: TorchEngine) -> None:
    for n, request in enumerate([*choices(2), *choices(2, cache_salt="elsewhere")]):
        engine.submit(msgspec.structs.replace(request, id=str(n)))
    engine.step()  # the first choice of the first prompt fills this step
    while engine.has_work:
        engine.step()
    shared = (len(engine.encode_prompt(choices(1)[0])) - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert engine.prefix_use.reused == 2 * shared


@pytest.mark.parametrize("how", ["cancelled", "error"])
def test_choices_never_wait_for_one_that_has_gone(
    how: str, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = choices(4, LONG * 2)
    for request in requests:
        engine.submit(request)
    engine.step()
    assert len(engine._scheduler.running) == 1, "the others wait for the first"
    reasons: dict[str, str | None] = {}
    logits = engine._model.logits
    if how == "cancelled":
        engine.cancel("0")
    else:
        monkeypatch.setattr(engine._model, "logits", lambda hidden: logits(hidden) * float("nan"))
    for _ in range(200):
        for output in engine.step():
            monkeypatch.setattr(engine._model, "logits", logits)
            reasons[output.request_id] = output.finish_reason
    assert reasons == {"0": how, "1": "length", "2": "length", "3": "length"}
    engine.check_integrity()


def test_the_best_of_several_has_the_highest_mean_logprob() -> None:
    def answer(*logprobs: float) -> list[TokenLogprob]:
        return [TokenLogprob(1, b"x", logprob) for logprob in logprobs]

    answers = [answer(-1.0, -3.0), answer(-1.5), answer(), answer(-1.0, -1.0, -1.0), answer(-9.0)]
    assert best_of(answers, 2) == [3, 1]
    assert best_of(answers, 5) == [3, 1, 0, 4, 2]


# --- Bad input ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"logprobs": -1}, "logprobs is -1, but must be between 0 and 20"),
        ({"logprobs": 21}, "logprobs is 21"),
        ({"prompt_logprobs": 21}, "prompt_logprobs is 21"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": -1, "prompt_logprobs": 0}, "max_tokens is -1"),
        ({"logit_bias": {5: 101.0}}, "logit_bias of token 5 is 101"),
        ({"logit_bias": {5: float("nan")}}, "logit_bias of token 5"),
        ({"logit_bias": {400_000: 1.0}}, "logit_bias has tokens that are not of this model"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias has tokens that are not of this model"),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "at most 1024"),
    ],
)
def test_what_is_out_of_range_is_refused_and_nothing_is_kept(
    changes: dict[str, Any], says: str, engine: TorchEngine
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        engine.submit(ask("The", sampling=changed(**changes)))
    assert not engine.has_work
    assert run(engine, ask("The", sampling=SAMPLED))[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(id="x", prompt="a", prompt_token_ids=[1]), "either messages or a prompt"),
        (Request(id="x", prompt_token_ids=[]), "empty"),
        (Request(id="x", prompt_token_ids=[1, 5000]), "not of this model"),
    ],
)
def test_a_prompt_of_tokens_that_makes_no_sense_is_refused(
    request_: Request, says: str, engine: TorchEngine
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        engine.submit(request_)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(logit_bias={5: 1.5, 17: -100.0}, logprobs=3, prompt_logprobs=0, max_tokens=0),
        SamplingParams(response_format=JsonObject()),
        SamplingParams(response_format=JsonSchema('{"properties": {"b": {}, "a": {}}}')),
        SamplingParams(response_format=Regex("a+")),
    ],
)
def test_parameters_survive_being_stored_as_json(sampling: SamplingParams) -> None:
    stored = msgspec.json.encode(msgspec.to_builtins(sampling, str_keys=True))
    assert (stored == b"{}") == (sampling == SamplingParams())
    assert msgspec.convert(msgspec.json.decode(stored), SamplingParams, str_keys=True) == sampling
