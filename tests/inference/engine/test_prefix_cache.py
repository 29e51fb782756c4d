"""A prompt that begins as an earlier one did is not computed again, and nobody can tell but by the clock."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from inference.engine.blocks import BLOCK_SIZE
from inference.engine.engine import TorchEngine
from inference.engine.interface import Request
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.running import Answer, ask, assert_greedy, chat, run
from tests.inference.tiny_models import save_model

LONG = "one two three four five six seven eight nine ten " * 8
TOKENS = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


def reused(engine: TorchEngine, *requests: Request) -> tuple[int, list[Answer]]:
    """Tokens of these requests that were not computed, and their answers."""
    before = engine.prefix_use.reused
    answers = run(engine, *requests)
    return engine.prefix_use.reused - before, answers


def test_the_same_prompt_again_computes_its_last_block_only_and_says_the_same(engine: TorchEngine) -> None:
    request = ask(LONG, sampling=TOKENS)
    length = len(engine.encode_prompt(request))
    cold, first = reused(engine, request)
    warm, second = reused(engine, request)
    assert cold == 0
    assert warm == (length - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert second[0].token_ids == first[0].token_ids
    assert (first[0].cached_tokens, second[0].cached_tokens) == (0, warm)


def test_a_prompt_of_whole_blocks_still_computes_its_last_token(engine: TorchEngine) -> None:
    request = next(
        request
        for n in range(1, 200)
        if len(engine.encode_prompt(request := ask("a" * n, sampling=TOKENS))) == 4 * BLOCK_SIZE
    )
    run(engine, request)
    again, _ = reused(engine, request)
    assert again == 3 * BLOCK_SIZE


def turns(*said: str, salt: str = "") -> Request:
    """A conversation in which person and model take turns."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    return Request(id="turn", messages=messages, sampling=TOKENS, cache_salt=salt)


def test_the_next_turn_of_a_conversation_computes_what_is_new(engine: TorchEngine) -> None:
    first = turns(LONG)
    (answer,) = run(engine, first)
    # A model with random weights never chooses the tokens the tokenizer would.
    assert engine._loaded.tokenizer.encode(answer.text) != answer.token_ids
    known = len(engine.encode_prompt(first)) + len(answer.token_ids) - 1  # the last token was not computed
    again, _ = reused(engine, turns(LONG, answer.text, "And then?"))
    assert again == known // BLOCK_SIZE * BLOCK_SIZE


def test_an_answer_keeps_its_tokens_in_its_own_place_and_workspace_only(engine: TorchEngine) -> None:
    (answer,) = run(engine, turns(LONG, salt="home"))

    def holds(request: Request) -> bool:
        ids = engine.encode_prompt(request)
        size = len(answer.token_ids)
        return any(ids[n : n + size] == answer.token_ids for n in range(len(ids)))

    assert holds(turns(LONG, answer.text, "Go on", salt="home"))
    assert holds(turns("Something else", answer.text, "Go on", salt="home"))
    assert not holds(turns(LONG, answer.text, "Go on", salt="elsewhere"))
    assert not holds(turns(LONG, answer.text, "Go on"))
    assert not holds(turns(LONG, answer.text + " edited", "Go on", salt="home"))
    assert not holds(turns(LONG, "Something else", answer.text, salt="home"))


def test_special_tokens_that_a_model_wrote_do_not_steer_the_next_turn(engine: TorchEngine) -> None:
    special = min(engine._loaded.tokenizer.special_ids)
    first = msgspec.structs.replace(turns(LONG), prior_token_ids=[special])
    (answer,) = run(engine, first)

    def specials(request: Request) -> int:
        return engine.encode_prompt(request).count(special)

    assert specials(turns(LONG, answer.text, "Go on")) == specials(turns(LONG, "Well", "Go on"))


def test_an_answer_that_a_stop_string_cut_off_is_read_as_text(engine: TorchEngine) -> None:
    (whole,) = run(engine, turns(LONG))
    sampling = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, stop=(whole.text[10:14],))
    cut = Request(id="cut", messages=turns(LONG).messages, sampling=sampling, cache_salt="fresh")
    (answer,) = run(engine, cut)
    assert answer.finish_reason == "stop"
    fresh = engine.encode_prompt(turns(LONG, answer.text, "Go on", salt="fresh"))
    assert fresh == engine.encode_prompt(turns(LONG, answer.text, "Go on", salt="never used"))


def test_tokens_that_were_answered_are_found_as_well(engine: TorchEngine) -> None:
    (answer,) = run(engine, ask("The", sampling=TOKENS))
    resumed = ask("The", id="again", sampling=TOKENS, prior_token_ids=answer.token_ids[:-1])
    known = len(engine.encode_prompt(resumed)) + len(answer.token_ids) - 1
    again, (end,) = reused(engine, resumed)
    assert again == (known - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert end.token_ids == answer.token_ids[-1:]


@pytest.mark.parametrize("parts", [(LONG, "x" + LONG), (LONG, LONG[:200] + "#" + LONG[201:])])
def test_a_prompt_that_differs_shares_no_more_than_is_the_same(
    parts: tuple[str, str], engine: TorchEngine
) -> None:
    first, second = (engine.encode_prompt(ask(part)) for part in parts)
    same = next(n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    run(engine, ask(parts[0], sampling=TOKENS))
    again, _ = reused(engine, ask(parts[1], sampling=TOKENS))
    assert again == same // BLOCK_SIZE * BLOCK_SIZE


def test_one_workspace_never_finds_what_another_computed(engine: TorchEngine) -> None:
    run(engine, chat(LONG, cache_salt="one", sampling=TOKENS))
    assert reused(engine, chat(LONG, cache_salt="two", sampling=TOKENS))[0] == 0
    assert reused(engine, chat(LONG, cache_salt="", sampling=TOKENS))[0] == 0
    assert reused(engine, chat(LONG, cache_salt="one", sampling=TOKENS))[0] > 0


def test_found_or_not_every_token_is_that_of_transformers(tmp_path: Path) -> None:
    """With so little memory that sequences push each other and what is kept out, over and over."""
    save_model(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    engine = load_engine(tmp_path, dtype="fp32", max_running=6, kv_tokens=512)
    prompts = [LONG[:cut] + tail for cut in (60, 150, 300) for tail in ("", "a", "bb", " and so on")] * 2
    requests = [ask(prompt, id=str(n), sampling=TOKENS) for n, prompt in enumerate(prompts)]
    used, answers = reused(engine, *requests)
    assert used > 0
    for request, answer in zip(requests, answers, strict=True):
        assert_greedy(reference, engine.encode_prompt(request), answer.token_ids)
    engine.close()


def test_a_request_pushed_out_finds_its_own_tokens_again(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32", max_running=2, kv_tokens=256)
    long = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True)
    used, answers = reused(engine, ask("a" * 20, id="a", sampling=long), ask("b" * 20, id="b", sampling=long))
    assert [len(answer.token_ids) for answer in answers] == [120, 120]
    assert used > 0
    engine.close()


def test_numbers_that_are_not_finite_are_never_found(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32")
    weight = engine._model.embed_tokens
    sound = weight.clone()
    weight.fill_(float("nan"))
    (broken,) = run(engine, ask(LONG, sampling=TOKENS))
    weight.copy_(sound)
    again, (answer,) = reused(engine, ask(LONG, sampling=TOKENS))
    assert broken.finish_reason == "error"
    assert again == 0
    assert len(answer.token_ids) == 40
    engine.close()


def test_a_cancelled_request_leaves_nothing_that_is_half_computed(engine: TorchEngine) -> None:
    engine.submit(ask(LONG * 2, id="half", sampling=TOKENS))
    engine.step()
    engine.cancel("half")
    engine.step()
    assert reused(engine, ask(LONG * 2, sampling=TOKENS))[0] == 0
