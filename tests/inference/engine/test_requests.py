"""What a request may ask of the engine, and what it is told: stopping, limits, refusals, cancelling, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine.engine import TorchEngine
from inference.engine.interface import EngineBusy, InvalidRequest, PromptTooLong, Request
from inference.engine.loader import load_engine
from inference.parameters import Regex, SamplingParams
from tests.inference.engine.running import Answer, ask, chat, collect, run
from tests.inference.tiny_models import save_model, save_tokenizer

SAMPLED = SamplingParams(
    temperature=0.8,
    top_k=60,
    top_p=0.95,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    max_tokens=30,
    ignore_eos=True,
)


def changed(sampling: SamplingParams, **changes: Any) -> SamplingParams:
    return SamplingParams(**{f: getattr(sampling, f) for f in sampling.__struct_fields__} | changes)


# --- Ends ---------------------------------------------------------------------------------------------------
def test_an_answer_ends_at_max_tokens(engine: TorchEngine) -> None:
    (answer,) = run(engine, ask("The", sampling=SAMPLED))
    assert (len(answer.token_ids), answer.finish_reason) == (30, "length")


def test_a_stop_string_ends_the_text_before_it_wherever_it_lies_in_the_tokens(engine: TorchEngine) -> None:
    (whole,) = run(engine, ask("The", sampling=SAMPLED))
    for begin in range(0, len(whole.text) - 4, 5):
        stop = whole.text[begin : begin + 4]
        (answer,) = run(engine, ask("The", sampling=changed(SAMPLED, stop=(stop, "never said"))))
        assert answer.finish_reason == "stop"
        assert answer.text == whole.text[: whole.text.index(stop)]


def test_text_that_could_have_been_a_stop_string_is_given_out_at_the_end(engine: TorchEngine) -> None:
    (whole,) = run(engine, ask("The", sampling=SAMPLED))
    (answer,) = run(engine, ask("The", sampling=changed(SAMPLED, stop=(whole.text[-3:] + "unsaid",))))
    assert answer.text == whole.text
    assert answer.finish_reason == "length"


def test_a_stop_token_ends_the_answer_and_is_no_part_of_it(engine: TorchEngine) -> None:
    (whole,) = run(engine, ask("The", sampling=SAMPLED))
    token = whole.token_ids[7]
    (answer,) = run(engine, ask("The", sampling=changed(SAMPLED, stop_token_ids=(token,))))
    assert answer.token_ids == whole.token_ids[: whole.token_ids.index(token)]
    assert answer.finish_reason == "stop"


def test_the_models_own_end_token_ends_the_answer_unless_it_is_ignored(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32")
    favour_token(engine, 2)  # <|im_end|>
    (answer,) = run(engine, ask("The"))
    assert (answer.token_ids, answer.text, answer.finish_reason) == ([], "", "stop")
    (answer,) = run(engine, ask("The", sampling=SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)))
    assert (answer.token_ids, answer.text, answer.finish_reason) == ([2] * 5, "", "length")


def test_without_max_tokens_the_context_is_the_limit(engine: TorchEngine) -> None:
    request = ask("The", sampling=SamplingParams(temperature=0.9, ignore_eos=True))
    admission = engine.submit(request)
    answer = Answer()
    collect(engine, {"one": answer})
    assert admission.prompt_tokens + admission.max_tokens == engine.context_length == 1024
    assert (len(answer.token_ids), answer.finish_reason) == (admission.max_tokens, "length")


# --- Refusals -----------------------------------------------------------------------------------------------
def test_a_prompt_that_is_too_long_is_refused_with_by_how_much(engine: TorchEngine) -> None:
    ids = engine.encode_prompt(ask("word " * 100))
    per_word = len(ids) / 100
    with pytest.raises(
        PromptTooLong, match=r"tokens too long: it has \d+, and the model reads at most 1023\."
    ) as caught:
        engine.submit(ask("word " * 1000))
    excess = int(str(caught.value).split()[2])
    assert abs(excess - (per_word * 1000 - 1023)) <= per_word * 2
    assert not engine.has_work


def test_a_prompt_larger_than_the_memory_for_keys_is_refused_and_never_waits(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32", kv_tokens=64)
    with pytest.raises(PromptTooLong):
        engine.submit(ask("word " * 60))
    assert engine.submit(ask("word", sampling=SamplingParams(max_tokens=5000))).max_tokens <= 64


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(id="x"), "either messages or a prompt"),
        (Request(id="x", prompt="a", messages=[]), "either messages or a prompt"),
        (Request(id="x", messages=[]), "no message"),
        (Request(id="x", prompt=""), "empty"),
        (Request(id="x", messages=[{"role": "wizard", "content": "hi"}]), "role"),
        (Request(id="x", messages=[{"role": "user", "content": 7}]), "content"),
        (Request(id="x", messages=[{"content": "hi"}]), "role"),
        (ask("a", sampling=SamplingParams(temperature=9)), "temperature is 9"),
        (ask("a", sampling=SamplingParams(top_p=float("nan"))), "top_p"),
        (ask("a", prior_token_ids=[10_000]), "not of this model"),
        (ask("a", prior_token_ids=[-1]), "not of this model"),
        (ask("a", sampling=SamplingParams(max_tokens=0)), "max_tokens"),
        (Request(id="x", messages=["hi"]), "an object with a role"),  # type: ignore[list-item]
        (ask("a", sampling=SamplingParams(stop_token_ids=(10_000,))), "stop_token_ids has tokens"),
        (
            ask("a", sampling=SamplingParams(stop_token_ids=(-1,), response_format=Regex("a+"))),
            "stop_token_ids has tokens",
        ),
        (ask("a", sampling=SamplingParams(logit_bias={10_000: 1.0})), "logit_bias has tokens"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_a_sentence(
    request_: Request, says: str, engine: TorchEngine
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        engine.submit(request_)
    assert not engine.has_work


OUT_OF_RANGE: dict[str, list[Any]] = {
    "temperature": [-0.01, 2.01, float("inf")],
    "top_p": [0.0, 1.01],
    "top_k": [-1, 10**9],
    "min_p": [-0.01, 1.01],
    "repetition_penalty": [0.0, -1.0, 10.1],
    "presence_penalty": [-2.1, 2.1],
    "frequency_penalty": [-2.1, 2.1],
    "max_tokens": [-1, 10**9],
    "logprobs": [-1, 21],
    "prompt_logprobs": [-1, 21],
    "stop": [("",), ("x" * 501,), ("x",) * 17],
    "logit_bias": [{5: 100.1}, {5: -100.1}, dict.fromkeys(range(1025), 1.0)],
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_sampling_value_out_of_its_range_is_named_and_the_engine_goes_on(
    name: str, engine: TorchEngine
) -> None:
    nan: dict[str, Any] = {"stop": ("",), "logit_bias": {5: float("nan")}}
    for value in (*OUT_OF_RANGE[name], nan.get(name, float("nan"))):
        with pytest.raises(InvalidRequest, match=name):
            engine.submit(ask("a", sampling=SamplingParams(**{name: value})))
    assert run(engine, ask("a"))[0].finish_reason


def test_a_hostile_chat_template_refuses_conversations_and_nothing_else(tmp_path: Path) -> None:
    save_model(tmp_path)
    save_tokenizer(tmp_path, template="{% for a in range(9) %}{{ ''.__class__.__mro__ }}{% endfor %}")
    engine = load_engine(tmp_path, dtype="fp32")
    engine.submit(ask("The", "runs"))
    engine.step()
    for n in range(2):
        with pytest.raises(InvalidRequest, match="template"):
            engine.submit(chat("hi", str(n)))
    answers = {"runs": Answer()}
    collect(engine, answers)
    assert answers["runs"].finish_reason
    engine.check_integrity()
    engine.close()


def test_two_requests_cannot_have_one_id(engine: TorchEngine) -> None:
    engine.submit(ask("a"))
    with pytest.raises(InvalidRequest, match="running already"):
        engine.submit(ask("b"))


def test_a_model_without_a_chat_template_says_so(tmp_path: Path) -> None:
    save_model(tmp_path)
    save_tokenizer(tmp_path, template=None)
    engine = load_engine(tmp_path, dtype="fp32")
    with pytest.raises(InvalidRequest, match="no chat template"):
        engine.submit(chat("hi"))
    assert run(engine, ask("hi"))[0].finish_reason == "length"


def test_a_full_waiting_list_refuses_and_keeps_nothing(engine: TorchEngine) -> None:
    for n in range(16):
        engine.submit(ask("a", id=str(n)))
    with pytest.raises(EngineBusy):
        engine.submit(ask("a", id="one too many"))
    answers = {str(n): Answer() for n in range(16)}
    collect(engine, answers)
    assert all(answer.finish_reason for answer in answers.values())
    engine.check_integrity()


# --- The oldest turns ---------------------------------------------------------------------------------------
def conversation(turns: int, system: bool = True) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": "Be kind."}] if system else []
    for n in range(turns):
        messages.append({"role": "user", "content": f"Question {n} about foxes and dogs?"})
        messages.append({"role": "assistant", "content": f"Answer {n}: " + "they sleep. " * 5})
    return [*messages, {"role": "user", "content": "And now?"}]


@pytest.mark.parametrize("system", [True, False])
def test_the_oldest_turns_give_way_but_never_the_system_message_or_the_last(
    system: bool, engine: TorchEngine
) -> None:
    messages = conversation(40, system)
    with pytest.raises(PromptTooLong):
        engine.submit(Request(id="one", messages=messages))
    request = Request(
        id="one", messages=messages, truncate_oldest=True, sampling=SamplingParams(max_tokens=50)
    )
    admission = engine.submit(request)
    assert admission.max_tokens == 50
    assert admission.dropped_messages % 2 == 0, "what is left begins with the person"
    head = 1 if system else 0
    kept = messages[:head] + messages[head + admission.dropped_messages :]
    assert engine.encode_prompt(Request(id="x", messages=kept)) == engine.encode_prompt(request)


@given(st.lists(st.integers(1, 300), min_size=2, max_size=40), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_whatever_the_turns_are_little_more_gives_way_than_has_to(
    engine: TorchEngine, lengths: list[int], system: bool
) -> None:
    turns = [
        {"role": "assistant" if n % 2 else "user", "content": "dog " * length}
        for n, length in enumerate(lengths)
    ]
    head = [{"role": "system", "content": "Be kind."}] if system else []
    messages = [*head, *turns, {"role": "user", "content": "And now?"}]
    request = Request(
        id="one",
        messages=messages,
        truncate_oldest=True,
        sampling=SamplingParams(max_tokens=50, temperature=0),
    )
    dropped = engine.submit(request).dropped_messages
    engine.cancel("one")
    engine.step()
    template = engine._loaded.template
    assert template is not None
    starts = [n for n, turn in enumerate(turns) if turn["role"] == "user"] + [len(turns)]
    fitting = [n for n in starts if len(template.encode(head + messages[len(head) + n :])) <= 1024 - 50]
    assert dropped in fitting

    def text_of(*some: dict[str, Any]) -> int:
        return sum(len(turn["content"].encode()) for turn in some)

    # A stride at most, and what is left of a turn. A token of these texts has four bytes.
    stride = 1024 - 50
    longest = max((text_of(*turns[start : start + 2]) for start in starts), default=0)
    assert text_of(*turns[fitting[0] : dropped]) <= stride + longest
    if dropped > fitting[0]:
        assert text_of(*messages[len(head) + dropped :]) >= stride / 4


def test_a_conversation_longer_than_the_context_is_not_read_anew_at_each_turn(engine: TorchEngine) -> None:
    messages = conversation(12)
    cached, dropped = [], set()
    for n in range(12):
        request = Request(
            id=str(n),
            messages=messages,
            truncate_oldest=True,
            sampling=SamplingParams(max_tokens=20, temperature=0),
        )
        dropped.add(engine.submit(request).dropped_messages)
        answers = {str(n): Answer()}
        collect(engine, answers)
        answer = answers[str(n)]
        cached.append(answer.cached_tokens / len(engine.encode_prompt(request)))
        messages += [
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": f"And what of question {n}, about foxes and dogs?"},
        ]
    assert len(dropped) > 1, "the conversation never passed the context"
    read_anew = sum(share < 0.5 for share in cached[1:])
    # A turn is nearly a tenth of the context here; as few as possible would have been ten beginnings.
    assert read_anew < len(dropped) <= 6


def test_a_conversation_that_fits_keeps_every_turn(engine: TorchEngine) -> None:
    request = Request(id="one", messages=conversation(2), truncate_oldest=True)
    assert engine.submit(request).dropped_messages == 0


def test_a_last_message_that_is_too_long_alone_is_refused(engine: TorchEngine) -> None:
    messages = [*conversation(3)[:-1], {"role": "user", "content": "word " * 3000}]
    with pytest.raises(PromptTooLong):
        engine.submit(Request(id="one", messages=messages, truncate_oldest=True))


def test_of_a_text_that_is_too_long_the_end_is_kept_and_room_for_an_answer(engine: TorchEngine) -> None:
    text = " ".join(f"fox {n} and dog {n}" for n in range(500))
    with pytest.raises(PromptTooLong):
        engine.submit(Request(id="one", prompt=text))
    request = Request(id="one", prompt=text, truncate_oldest=True, sampling=SamplingParams(max_tokens=50))
    ids, whole = engine.encode_prompt(request), engine.tokenizer.encode(text)
    begun = engine.tokenizer.prompt_prefix
    assert ids == begun + whole[len(whole) - (1024 - 50 - len(begun)) :]
    assert engine.submit(request).max_tokens == 50
    short = Request(id="two", prompt="The fox", truncate_oldest=True)
    assert engine.encode_prompt(short) == begun + engine.tokenizer.encode("The fox")


def test_of_a_text_with_a_limit_the_beginning_is_kept(engine: TorchEngine) -> None:
    text = " ".join(f"fox {n} and dog {n}" for n in range(500))
    whole = engine.tokenizer.prompt_prefix + engine.tokenizer.encode(text)
    assert engine.encode_prompt(Request(id="one", prompt=text, prompt_limit=100)) == whole[:100]
    with pytest.raises(PromptTooLong):
        engine.submit(Request(id="one", prompt=text, prompt_limit=1024))


# --- Stop means now -----------------------------------------------------------------------------------------
def test_a_cancelled_request_ends_at_the_next_step(engine: TorchEngine) -> None:
    for n in range(10):  # eight run, two wait
        engine.submit(ask("The", id=str(n), sampling=SAMPLED))
    engine.step()
    engine.cancel("0")
    engine.cancel("9")
    engine.cancel("no such request")
    outputs = {output.request_id: output for output in engine.step()}
    assert outputs["0"].finish_reason == outputs["9"].finish_reason == "cancelled"
    assert outputs["0"].token_ids == []
    engine.check_integrity()
    engine.cancel("0")
    later = {output.request_id for output in engine.step()}
    assert later == {str(n) for n in range(1, 9)}


def test_cancelling_gives_out_what_was_held_back(engine: TorchEngine) -> None:
    (whole,) = run(engine, ask("The", sampling=SAMPLED))
    engine.submit(ask("The", sampling=changed(SAMPLED, stop=(whole.text[:200] + "unsaid",))))
    outputs = [engine.step()[0] for _ in range(5)]
    assert [output.text for output in outputs] == [""] * 5
    engine.cancel("one")
    (last,) = engine.step()
    assert (last.finish_reason, bool(last.text)) == ("cancelled", True)
    assert whole.text.startswith(last.text)


# --- One request's trouble is its own -------------------------------------------------------------------------
def test_numbers_that_are_not_finite_end_one_request_and_not_its_neighbours(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone,) = run(engine, ask("The", id="good", sampling=SAMPLED))
    logits = engine._model.logits
    calls = 0

    def broken(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        result = logits(hidden)
        if calls == 4:
            result[0] = float("nan")
        return result

    monkeypatch.setattr(engine._model, "logits", broken)
    bad, good = run(engine, ask("Bad", id="bad", sampling=SAMPLED), ask("The", id="good", sampling=SAMPLED))
    assert (bad.finish_reason, len(bad.token_ids)) == ("error", 3)
    assert "not finite" in bad.error
    assert (good.text, good.finish_reason) == (alone.text, "length")


def test_numbers_that_are_not_finite_do_not_stay_in_memory_that_others_will_use(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32")
    (before,) = run(engine, ask("The", sampling=SAMPLED))
    table = engine._model.embed_tokens
    kept = table.clone()
    table.fill_(float("nan"))
    (bad,) = run(engine, ask("word " * 5, sampling=SAMPLED))
    table.copy_(kept)
    (after,) = run(engine, ask("The", sampling=SAMPLED))
    assert bad.finish_reason == "error"
    assert after.text == before.text


# --- Randomness ----------------------------------------------------------------------------------------------
def test_sampled_text_does_not_depend_on_what_else_runs(engine: TorchEngine) -> None:
    requests = [ask(f"Number {n}", id=str(n), sampling=SAMPLED, seed=n) for n in range(12)]
    alone = [run(engine, request)[0].text for request in requests]
    together = [answer.text for answer in run(engine, *requests)]
    backwards = [answer.text for answer in run(engine, *reversed(requests))]
    assert alone == together == backwards[::-1]


def test_the_seed_and_the_choice_make_the_text(engine: TorchEngine) -> None:
    texts = {
        (seed, choice): run(engine, ask("The", sampling=SAMPLED, seed=seed, choice=choice))[0].text
        for seed in (1, 2)
        for choice in (0, 1)
    }
    assert len(set(texts.values())) == 4
    assert run(engine, ask("The", sampling=SAMPLED, seed=2, choice=1))[0].text == texts[2, 1]


# --- A killed worker is not a lost answer ---------------------------------------------------------------------
@pytest.mark.parametrize("stops", [False, True])
def test_an_answer_goes_on_from_every_cut_as_if_nothing_had_happened(
    stops: bool, engine: TorchEngine
) -> None:
    sampling = SAMPLED
    if stops:
        (whole,) = run(engine, ask("The", sampling=SAMPLED, seed=5))
        middle = len(whole.text) * 2 // 3
        stop = next(
            whole.text[n : n + 5]
            for n in range(middle, len(whole.text))
            if whole.text[n : n + 5] not in whole.text[:n]
        )
        # The second is held back for long and never comes.
        sampling = changed(SAMPLED, stop=(stop, whole.text[3:12] + "unsaid"))
    (whole,) = run(engine, ask("The", sampling=sampling, seed=5))
    assert whole.finish_reason == ("stop" if stops else "length")
    for cut in range(len(whole.token_ids) + 1):
        prior = whole.token_ids[:cut]
        (rest,) = run(engine, ask("The", sampling=sampling, seed=5, prior_token_ids=prior))
        assert prior + rest.token_ids == whole.token_ids
        assert "".join(whole.pieces[:cut]) + rest.text == whole.text
        assert rest.finish_reason == whole.finish_reason


def favour_token(engine: TorchEngine, token: int) -> None:
    """From now on the model finds this token likeliest."""
    logits = engine._model.logits

    def favouring(hidden: torch.Tensor) -> torch.Tensor:
        result = logits(hidden)
        result[:, token] = 1000.0
        return result

    engine._model.logits = favouring  # type: ignore[method-assign]
