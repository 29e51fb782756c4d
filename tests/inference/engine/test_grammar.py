"""An answer keeps to a schema or a regular expression whatever the model would rather say; bad ones are refused."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine.engine import TorchEngine
from inference.engine.grammar import GrammarCompiler
from inference.engine.interface import InvalidGrammar, Request
from inference.engine.loaded_model import LoadedModel
from inference.engine.loader import load_engine
from inference.parameters import JsonObject, JsonSchema, Regex, ResponseFormat, SamplingParams
from tests.inference.engine.running import Answer, ask, chat, collect, run
from tests.inference.tiny_models import save_model, tiny_config

# Bounded, so that a model with random weights comes to an end.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["cat", "dog", "日本 🙂", None, 7]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
        "inner": {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}},
            "required": ["ok"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "kind", "legs", "tags", "inner"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
PHONE = Regex(r"\+[0-9]{2} \([0-9]{3}\) [0-9]{4,7}")


def schema(described: Any) -> JsonSchema:
    return JsonSchema(json.dumps(described))


def kept(response_format: ResponseFormat, **changes: Any) -> SamplingParams:
    values = {"temperature": 1.0, "max_tokens": 600, "response_format": response_format}
    return SamplingParams(**values | changes)


# --- The text -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(5))
def test_a_random_model_under_a_schema_writes_json_that_validates(seed: int, engine: TorchEngine) -> None:
    free = ask("The", id="free", sampling=SamplingParams(temperature=1.0, max_tokens=40, ignore_eos=True))
    (alone,) = run(engine, free)
    strict = ask("The", id="strict", seed=seed, sampling=kept(schema(SCHEMA)))
    answer, beside = run(engine, strict, free)
    assert answer.finish_reason == "stop"
    jsonschema.validate(json.loads(answer.text), SCHEMA)
    assert beside.token_ids == alone.token_ids


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_random_model_under_a_regular_expression_writes_what_it_matches(
    temperature: float, engine: TorchEngine
) -> None:
    sampling = kept(PHONE, temperature=temperature, repetition_penalty=1.3, logit_bias={40: 50.0})
    (answer,) = run(engine, ask("The", sampling=sampling))
    assert answer.finish_reason == "stop"
    assert re.fullmatch(PHONE.pattern, answer.text)


def test_json_mode_writes_one_object_or_is_cut_off_by_max_tokens(
    loaded_demo: Callable[[str], LoadedModel],
) -> None:
    engine = TorchEngine(loaded_demo("fp32"))
    said = "Describe a cat named Tom who is 3 years old, as JSON with the keys name and age."
    sampling = kept(JsonObject(), temperature=0, max_tokens=150)
    whole, cut, strict = run(
        engine,
        chat(said, id="whole", sampling=sampling),
        chat(said, id="cut", sampling=msgspec.structs.replace(sampling, max_tokens=4)),
        chat(said, id="strict", sampling=kept(schema(SCHEMA), temperature=0)),
    )
    assert whole.finish_reason == "stop"
    assert isinstance(json.loads(whole.text), dict)
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 4)
    assert whole.text.startswith(cut.text)
    jsonschema.validate(json.loads(strict.text), SCHEMA)
    engine.close()


def test_logits_wider_than_the_vocabulary_never_yield_a_token_that_is_none(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_config(vocab_size=tiny_config().vocab_size + 45))
    engine = load_engine(tmp_path, dtype="fp32")
    (answer,) = run(engine, ask("The", sampling=kept(schema(SCHEMA))))
    assert max(answer.token_ids) < engine._loaded.tokenizer.vocab_size
    jsonschema.validate(json.loads(answer.text), SCHEMA)
    engine.close()


def test_a_sentencepiece_vocabulary_keeps_to_the_grammar_from_the_first_space_on(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_config(vocab_size=400))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "text").write_text("the quick brown fox is at home: 12345 " * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    engine = load_engine(tmp_path, dtype="fp32")
    assert engine.tokenizer.strips_leading_space
    spaced, strict = run(
        engine,
        ask("the", id="spaced", sampling=kept(Regex(" (yes|no) at home"))),
        ask("the", id="strict", sampling=kept(schema(SCHEMA))),
    )
    assert spaced.text in (" yes at home", " no at home")
    jsonschema.validate(json.loads(strict.text), SCHEMA)
    engine.close()


def test_no_special_token_is_ever_allowed_as_text(engine: TorchEngine) -> None:
    tokenizer = engine._loaded.tokenizer
    grammar = GrammarCompiler(tokenizer, tokenizer.vocab_size).compile(Regex("(.|\n)*"))
    assert grammar.allowed.sum() > 100
    assert not grammar.allowed[[*tokenizer.special_ids]].any()


# --- Where it ends ------------------------------------------------------------------------------------------
def test_the_end_is_possible_only_where_the_text_is_complete(engine: TorchEngine) -> None:
    end = min(engine._loaded.end_token_ids)
    eager = {end: 100.0}
    for pattern, text in (("[ab]{3}[ab]*", 3), ("[ab]{7}", 7)):
        (answer,) = run(engine, ask("The", sampling=kept(Regex(pattern), logit_bias=eager)))
        assert (len(answer.text), answer.finish_reason) == (text, "stop")
    stopping = kept(Regex("[ab]{3}[ab]*"), stop_token_ids=(300,), logit_bias={300: 100.0}, ignore_eos=True)
    (answer,) = run(engine, ask("The", sampling=stopping))
    assert (len(answer.text), answer.finish_reason) == (3, "stop")


def test_with_ignore_eos_it_goes_on_for_as_long_as_something_can_follow(engine: TorchEngine) -> None:
    end = min(engine._loaded.end_token_ids)
    eager = {"logit_bias": {end: 100.0}, "ignore_eos": True, "max_tokens": 20}
    endless, finite = run(
        engine,
        ask("The", id="endless", sampling=kept(Regex("[ab]*"), **eager)),
        ask("The", id="finite", sampling=kept(Regex("[ab]{0,5}"), **eager)),
    )
    assert (len(endless.token_ids), endless.finish_reason) == (20, "length")
    assert (len(finite.text), finite.finish_reason) == (5, "stop")
    assert end not in endless.token_ids + finite.token_ids


def test_a_stop_string_ends_the_text_wherever_it_is(engine: TorchEngine) -> None:
    (answer,) = run(engine, ask("The", sampling=kept(PHONE, stop=("(",))))
    assert (answer.text[0], answer.text[3:], answer.finish_reason) == ("+", " ", "stop")


def test_a_text_that_is_complete_before_it_begins_is_empty(engine: TorchEngine) -> None:
    (answer,) = run(engine, ask("The", sampling=kept(Regex(""))))
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", [], "stop")


# --- A killed worker, a full memory, an error ---------------------------------------------------------------
def test_an_answer_goes_on_from_every_cut_within_its_grammar(engine: TorchEngine) -> None:
    sampling = kept(schema(SCHEMA))
    (whole,) = run(engine, ask("The", sampling=sampling, seed=4))
    cuts = range(len(whole.token_ids) + 1)
    for some in (cuts[first : first + 8] for first in range(0, len(cuts), 8)):
        requests = [
            ask("The", id=str(cut), sampling=sampling, seed=4, prior_token_ids=whole.token_ids[:cut])
            for cut in some
        ]
        for cut, rest in zip(some, run(engine, *requests), strict=True):
            assert whole.token_ids[:cut] + rest.token_ids == whole.token_ids
            assert "".join(whole.pieces[:cut]) + rest.text == whole.text
            assert rest.finish_reason == "stop"


def test_answers_that_push_each_other_out_of_memory_keep_to_their_grammar(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, dtype="fp32", max_running=6, kv_tokens=320)
    requests = [
        ask(f"{n} " * 10, id=str(n), seed=n, sampling=kept(schema(SCHEMA), max_tokens=250)) for n in range(8)
    ]
    for answer in run(engine, *requests):
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), SCHEMA)
    engine.close()


def test_tokens_to_go_on_from_that_the_grammar_forbids_end_that_request_alone(engine: TorchEngine) -> None:
    prior = engine._loaded.tokenizer.encode("no phone number")
    bad, good = run(
        engine,
        ask("The", id="bad", sampling=kept(PHONE), prior_token_ids=prior),
        ask("The", id="good", sampling=kept(PHONE)),
    )
    assert bad.finish_reason == "error"
    assert "cannot keep to its response_format" in bad.error
    assert re.fullmatch(PHONE.pattern, good.text)


def test_a_grammar_that_fails_on_the_way_ends_its_request_alone(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.submit(ask("The", id="bad", sampling=kept(PHONE)))
    engine.submit(ask("The", id="good", sampling=kept(PHONE)))
    engine.step()
    grammar = engine._sequences["bad"].grammar
    assert grammar is not None
    grammar._matcher.consume_token(1)  # behind its back: nothing can follow now
    answers = {"bad": Answer(), "good": Answer()}
    collect(engine, answers)
    engine.check_integrity()
    assert answers["bad"].finish_reason == "error"
    assert "cannot keep to its response_format" in answers["bad"].error
    assert answers["good"].finish_reason == "stop"


# --- Compiling ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("response_format", "says"),
    [
        (schema({"type": "wizard"}), "Invalid type: wizard"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"type": "string", "minLength": 5, "maxLength": 2}), "Unsatisfiable"),
        (schema({"$ref": "http://example.com/schema.json"}), "not present|does not fetch"),
        (schema({"$ref": "#"}), "allows no text"),
        (JsonSchema('{"items":' * 5000 + "{}" + "}" * 5000), "recursion"),
        (JsonSchema('{"type":'), "is not JSON"),
        (JsonSchema('{}, "lark_grammar": "start: /a/"'), "is not JSON"),
        (JsonSchema("[1]"), "The schema"),
        (Regex("\ud800"), "no text"),
        (schema({"enum": [f"value {n}" for n in range(10_000)]}), "bytes; at most 65536"),
        (schema({"type": "integer", "multipleOf": 999983, "minimum": 5}), "allows no text|fuel"),
        (Regex("a("), "unclosed group"),
        (Regex("(?=a)b"), "look-around"),
        (Regex(r"(a)\1"), "backreferences"),
        (Regex(r"[^\s\S]"), "allows no text"),
        (Regex("(" * 3000 + "a" + ")" * 3000), "cannot be used"),
        (Regex("a" * 70_000), "bytes; at most 65536"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_in_a_sentence_and_nothing_is_kept(
    response_format: ResponseFormat, says: str, engine: TorchEngine
) -> None:
    for _ in range(2):  # what is known to be invalid is refused as well
        with pytest.raises(InvalidGrammar, match=says) as caught:
            engine.submit(ask("The", sampling=kept(response_format)))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    with pytest.raises(InvalidGrammar):
        engine.prepare(ask("The", sampling=kept(response_format)))
    assert not engine.has_work
    (answer,) = run(engine, ask("The", sampling=kept(PHONE)))
    assert answer.finish_reason == "stop"


EXPLODING = [
    Regex("((a{1,1000}){1,1000}){1,1000}"),
    Regex("(a|b)*a(a|b){25}"),
    Regex("(.*a.{30}){1,20}|(.*b.{40}c)"),
    schema({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1500)}}),
]


@pytest.mark.parametrize("response_format", EXPLODING)
def test_what_explodes_is_refused_or_ends_its_own_answer(
    response_format: ResponseFormat, engine: TorchEngine
) -> None:
    requests = [ask("The", id="good", sampling=kept(PHONE))]
    try:
        engine.prepare(ask("The", sampling=kept(response_format)))
    except InvalidGrammar:
        pass
    else:
        requests.append(ask("The", id="bad", sampling=kept(response_format, max_tokens=60)))
    answers = run(engine, *requests)
    assert re.fullmatch(PHONE.pattern, answers[0].text)
    assert all(answer.finish_reason in ("stop", "length", "error") for answer in answers)


def test_what_was_prepared_is_not_compiled_again(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask("The", sampling=kept(PHONE))
    preparing = threading.Thread(target=engine.prepare, args=(request,))
    preparing.start()
    preparing.join()
    monkeypatch.setattr("inference.engine.grammar._compile", lambda *_: pytest.fail("compiled again"))
    same = ask("The", sampling=kept(Regex(PHONE.pattern)))
    assert run(engine, same)[0].finish_reason == "stop"


def test_the_longest_unused_grammar_is_forgotten_first(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.engine.grammar._KEPT", 2)
    compiler = GrammarCompiler(engine._loaded.tokenizer, engine._loaded.tokenizer.vocab_size)
    compiled: list[str] = []
    from inference.engine import grammar

    original = grammar._compile

    def watched(vocabulary: Any, response_format: Any) -> Any:
        compiled.append(response_format.pattern)
        return original(vocabulary, response_format)

    monkeypatch.setattr(grammar, "_compile", watched)
    for pattern in "abacab":
        compiler.compile(Regex(pattern))
    assert "".join(compiled) == "abcb"


def test_answers_of_one_grammar_do_not_move_each_other(engine: TorchEngine) -> None:
    requests = [ask("The", id=str(n), seed=n, sampling=kept(schema(SCHEMA))) for n in range(4)]
    alone = [run(engine, request)[0].text for request in requests]
    assert [answer.text for answer in run(engine, *requests)] == alone
    assert len(set(alone)) == 4


_SMALL_SCHEMAS = st.recursive(
    st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(lambda n: {"type": "integer", "minimum": -n, "maximum": n}, st.integers(0, 1000)),
        st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 6)),
        st.builds(lambda v: {"enum": v}, st.lists(st.text(max_size=5), min_size=1, max_size=4)),
    ),
    lambda inner: st.one_of(
        st.builds(lambda s, n: {"type": "array", "items": s, "maxItems": n}, inner, st.integers(0, 2)),
        st.builds(
            lambda p: {
                "type": "object",
                "properties": p,
                "required": sorted(p),
                "additionalProperties": False,
            },
            st.dictionaries(st.text("abcé", min_size=1, max_size=3), inner, max_size=3),
        ),
    ),
    max_leaves=6,
)


@given(_SMALL_SCHEMAS, st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_whatever_the_schema_what_is_written_validates(
    engine: TorchEngine, described: dict[str, Any], seed: int
) -> None:
    strict = described | {"x-guidance": {"whitespace_flexible": False}}
    request = Request(id="one", prompt="The", seed=seed, sampling=kept(schema(strict), max_tokens=900))
    (answer,) = run(engine, request)
    assert answer.finish_reason == "stop"
    jsonschema.validate(json.loads(answer.text), described)
