"""Guessed tokens make an answer take fewer steps and change nothing of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference.engine.engine import TorchEngine
from inference.engine.interface import Request, StepOutput
from inference.engine.loaded_model import LoadedModel
from inference.engine.loader import load_engine
from inference.engine.lookup import PromptLookup
from inference.parameters import JsonObject, SamplingParams
from tests.inference.engine.running import ask, chat, run
from tests.load.lookup import LETTER

PLAIN = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=60, ignore_eos=True)
LONG = "one two three four five six seven eight nine ten " * 8


# --- Guessing -----------------------------------------------------------------------------------------------
def guess(known: list[int], answered: list[int], limit: int = 15) -> list[int]:
    """What is drafted after these tokens, asked for after each one that was answered."""
    lookup = PromptLookup()
    draft = lookup.draft(known, limit)
    for at in range(len(answered)):
        draft = lookup.draft(known + answered[: at + 1], limit)
    return draft


def test_what_followed_the_last_two_tokens_before_is_drafted() -> None:
    assert guess([*range(20), 90], [3, 4]) == [5, 6, 7]
    assert guess([*range(20), 90], [4, 3]) == []


def test_a_text_is_followed_as_long_as_it_repeats_whatever_else_its_words_stood_before() -> None:
    assert guess([10, 11, 12, 13, 14, 15, 16, 99, 12, 13, 77], [10, 11, 12, 13]) == [14, 15, 16]


def test_the_longer_the_text_repeats_the_more_is_drafted() -> None:
    prompt = [*range(100), 900]
    lengths = [len(guess(prompt, [*range(5, 5 + right)])) for right in range(2, 40)]
    assert sorted(lengths) == lengths
    assert (lengths[0], lengths[-1]) == (3, 15)


def test_nothing_is_drafted_while_guesses_are_wrong_and_again_once_they_are_right() -> None:
    pairs = [token for n in range(40) for token in (1, 2, 100 + n)]  # what follows 1, 2 is always new
    assert guess([7], pairs[:-1]) == []
    assert guess([*range(500, 600), 7], [*pairs, *range(500, 515)])[:3] == [515, 516, 517]


def test_no_more_is_drafted_than_may_be_and_a_loop_is_followed_round() -> None:
    assert guess([*range(100), 900], [*range(5, 40)], limit=2) == [40, 41]
    assert guess([1, 2] * 20, [1, 2] * 20) == [1, 2] * 7 + [1]


# --- The same answers ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Iterator[TorchEngine]:
    """Without speculation."""
    engine = load_engine(tiny_folder, dtype="fp32", speculation=False)
    yield engine
    engine.close()


def steps(engine: TorchEngine, request: Request) -> list[StepOutput]:
    engine.submit(request)
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    engine.check_integrity()
    return outputs


def whole(outputs: list[StepOutput]) -> tuple[list[int], str, str | None]:
    ids = [token for output in outputs for token in output.token_ids]
    return ids, "".join(output.text for output in outputs), outputs[-1].finish_reason


def guess_well(monkeypatch: pytest.MonkeyPatch, prompt: list[int], answer: list[int], seed: int) -> None:
    """Guesses of every length: what will be said, with a wrong token in every other one."""
    chance = random.Random(seed)

    def draft(_: PromptLookup, token_ids: list[int], limit: int) -> list[int]:
        at = len(token_ids) - len(prompt)
        guessed = answer[at : at + chance.randint(0, 15)]
        if guessed and chance.random() < 0.5:
            guessed[chance.randrange(len(guessed))] ^= 1
        return guessed[:limit]

    monkeypatch.setattr(PromptLookup, "draft", draft)


def changed(**changes: Any) -> SamplingParams:
    return msgspec.structs.replace(SAMPLED, **changes)


PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3}


@pytest.mark.parametrize(
    "sampling",
    [
        PLAIN,
        SAMPLED,
        changed(top_k=40, **PENALTIES),
        changed(temperature=0, **PENALTIES),
        changed(logit_bias={70: 4.0, 90: -100.0}),
        changed(top_p=1.0, max_tokens=17),
        changed(max_tokens=1),
    ],
)
def test_right_and_wrong_guesses_change_no_token(
    sampling: SamplingParams, plain: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        request = ask(LONG, sampling=sampling, seed=seed)
        wanted = whole(steps(plain, request))
        guess_well(monkeypatch, plain.encode_prompt(request), wanted[0], seed)
        outputs = steps(engine, request)
        assert whole(outputs) == wanted
        if len(wanted[0]) > 1:
            assert len(outputs) < len(wanted[0]), "nothing was gained"
    use = engine.lookup_use
    assert 0 < use.accepted < use.drafted or sampling.max_tokens == 1


def test_the_answer_ends_where_it_would_within_a_row_of_right_guesses(
    plain: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, text, _ = whole(steps(plain, ask("The", sampling=SAMPLED)))
    for at in range(4, 40, 3):
        for ends in (changed(stop=(text[at : at + 3],)), changed(stop_token_ids=(ids[at],))):
            request = ask("The", sampling=ends)
            guess_well(monkeypatch, plain.encode_prompt(request), ids, at)
            assert whole(steps(engine, request)) == whole(steps(plain, request))


def test_every_token_has_its_own_logprobs(
    plain: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask("The", sampling=changed(logprobs=3, frequency_penalty=0.5))
    alone = steps(plain, request)
    guess_well(monkeypatch, plain.encode_prompt(request), whole(alone)[0], 1)
    together = steps(engine, request)
    assert len(together) < len(alone)
    assert [len(output.logprobs or []) for output in together] == [len(o.token_ids) for o in together]
    for mine, wanted in zip(
        (score for output in together for score in output.logprobs or []),
        (score for output in alone for score in output.logprobs or []),
        strict=True,
    ):
        assert mine.token_id == wanted.token_id
        assert mine.logprob == pytest.approx(wanted.logprob, abs=1e-4)
        assert [top.token_id for top in mine.top] == [top.token_id for top in wanted.top]


def test_what_was_computed_on_wrong_guesses_is_found_by_nobody(
    plain: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask(LONG, sampling=SAMPLED)
    ids, _, _ = whole(steps(plain, request))
    prompt = plain.encode_prompt(request)
    for seed in range(4):
        guess_well(monkeypatch, prompt, ids, seed)
        assert whole(steps(engine, request))[0] == ids
        monkeypatch.undo()
        before = engine.prefix_use.reused
        onward = Request(id="on", prompt_token_ids=prompt + ids, sampling=PLAIN)
        assert whole(steps(engine, onward)) == whole(steps(plain, onward))
        assert engine.prefix_use.reused - before > len(prompt) + 30


def test_an_answer_goes_on_from_every_cut(
    plain: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = changed(**PENALTIES)
    ids, _, _ = whole(steps(plain, ask("The", sampling=sampling)))
    for cut in range(0, len(ids), 7):
        guess_well(monkeypatch, plain.encode_prompt(ask("The")), ids, cut)
        request = ask("The", sampling=sampling, prior_token_ids=ids[:cut])
        assert ids[:cut] + whole(steps(engine, request))[0] == ids
    assert engine.lookup_use.accepted > 0


# --- When there is none ---------------------------------------------------------------------------------------
def test_who_shares_the_steps_waits_for_no_guess(engine: TorchEngine) -> None:
    run(engine, *(ask(LONG, id=str(n), sampling=PLAIN, seed=n) for n in range(4)))
    assert engine.lookup_use == (0, 0)
    run(engine, ask(LONG, sampling=PLAIN))
    assert engine.lookup_use.drafted > 0


def test_a_grammar_is_kept_to_without_guesses(engine: TorchEngine) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=40, response_format=JsonObject())
    run(engine, chat('Repeat: {"a": 1, "a": 1, "a": 1}', sampling=sampling))
    assert engine.lookup_use == (0, 0)


def test_three_right_guesses_make_four_tokens_a_step_and_none_goes_beyond_the_memory(
    tiny_folder: Path, plain: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(tiny_folder, dtype="fp32", kv_tokens=64)
    request = ask("The", sampling=changed(max_tokens=500))
    ids, _, _ = whole(steps(plain, request))
    prompt = len(plain.encode_prompt(request))

    def draft(_: PromptLookup, token_ids: list[int], limit: int) -> list[int]:
        assert len(token_ids) + limit < 64
        return ids[len(token_ids) - prompt :][: min(limit, 3)]

    monkeypatch.setattr(PromptLookup, "draft", draft)
    outputs = steps(engine, request)
    assert whole(outputs) == whole(steps(plain, ask("The", sampling=changed(max_tokens=64 - prompt))))
    assert {len(output.token_ids) for output in outputs[1:-1]} == {4}
    engine.close()


def test_an_answer_can_be_cancelled_between_guesses(
    plain: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, _, _ = whole(steps(plain, ask(LONG, sampling=SAMPLED)))
    guess_well(monkeypatch, plain.encode_prompt(ask(LONG)), ids, 3)
    engine.submit(ask(LONG, sampling=SAMPLED))
    for _ in range(5):
        engine.step()
    engine.cancel("one")
    assert [output.finish_reason for output in engine.step()] == ["cancelled"]
    engine.check_integrity()
    assert whole(steps(engine, ask(LONG, sampling=SAMPLED)))[0] == ids


def test_a_guess_that_gives_numbers_that_are_not_finite_leaves_none_in_memory(
    tiny_folder: Path, plain: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(tiny_folder, dtype="fp32", kv_tokens=64)
    ids, _, _ = whole(steps(plain, ask("The", sampling=SAMPLED)))
    broken = next(token for token in range(300, 400) if token not in ids)
    kept = engine._model.embed_tokens[broken].clone()
    engine._model.embed_tokens[broken] = float("nan")
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: [broken])
    outputs = steps(engine, ask("The", sampling=SAMPLED))
    assert outputs[-1].finish_reason == "error"
    monkeypatch.undo()
    engine._model.embed_tokens[broken] = kept
    assert all(bool(layer.isfinite().all()) for layer in engine._cache.layers)
    assert whole(steps(engine, ask("The", sampling=changed(max_tokens=30))))[0] == ids[:30]
    engine.close()


# --- A real model ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def demo(loaded_demo: Callable[[str], LoadedModel]) -> LoadedModel:
    return loaded_demo("fp32")


@pytest.mark.parametrize(("temperature", "fewer"), [(0.0, 2.5), (0.7, 1.5)])
def test_a_letter_is_rewritten_in_fewer_steps_with_the_same_words(
    temperature: float, fewer: float, demo: LoadedModel
) -> None:
    sampling = SamplingParams(temperature=temperature, top_p=0.9, max_tokens=80)
    request = chat("Rewrite this letter and keep every sentence:\n\n" + LETTER, sampling=sampling)
    outputs = {}
    for speculation in (True, False):
        engine = TorchEngine(demo, kv_tokens=1024, speculation=speculation)
        outputs[speculation] = steps(engine, request)
        engine.close()
    assert whole(outputs[True]) == whole(outputs[False])
    assert len(outputs[True]) * fewer < len(outputs[False])
