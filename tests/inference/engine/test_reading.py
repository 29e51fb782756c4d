"""Scoring a given text and making a vector of it give what transformers gives, however the text is computed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from inference.engine.engine import TorchEngine
from inference.engine.interface import InvalidRequest, Pooling, Request, StepOutput
from inference.engine.loader import load_engine
from inference.parameters import SamplingParams
from tests.inference.engine.running import ask, run
from tests.inference.tiny_models import save_model

LONG = "one two three four five six seven eight nine ten " * 16  # more than one chunk
TEXTS = ["T", "The quick brown fox", "日本語 🙂 naïve", LONG, LONG[:300]]
SCORE = SamplingParams(max_tokens=0, prompt_logprobs=3)
SAMPLED = SamplingParams(temperature=0.8, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reading")
    save_model(path)
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def finals(engine: TorchEngine, *requests: Request) -> list[StepOutput]:
    """The outputs that carry what was read, in the order of the requests."""
    found: dict[str, StepOutput] = {}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for output in engine.step():
            if output.prompt_logprobs is not None or output.embedding is not None:
                assert output.request_id not in found, "it comes once"
                found[output.request_id] = output
    engine.check_integrity()
    return [found[request.id] for request in requests]


@torch.inference_mode()
def assert_scored(reference: PreTrainedModel, ids: list[int], output: StepOutput) -> None:
    scores = output.prompt_logprobs
    assert scores is not None
    assert [score.token_id for score in scores] == ids
    assert (scores[0].logprob, scores[0].top) == (None, [])
    expected = reference(torch.tensor([ids])).logits[0].float().log_softmax(dim=-1)
    for position, score in enumerate(scores[1:]):
        row = expected[position]
        assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-4)
        best = row.topk(3)
        assert [top.logprob for top in score.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        for top in score.top:
            assert top.logprob == pytest.approx(float(row[top.token_id]), abs=1e-4)


@torch.inference_mode()
def vector(reference: PreTrainedModel, ids: list[int], pooling: Pooling) -> torch.Tensor:
    hidden = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    pooled = hidden[-1] if pooling.kind == "last" else hidden.mean(dim=0)
    return pooled / pooled.norm() if pooling.normalize else pooled


def test_every_token_of_a_text_scores_as_transformers_scores_it(
    engine: TorchEngine, reference: PreTrainedModel
) -> None:
    requests = [ask(text, id=str(n), sampling=SCORE) for n, text in enumerate(TEXTS)]
    # The second time all of it is in the cache, and among requests that generate.
    for others in ([], [ask(LONG, id=f"other {n}", sampling=SAMPLED) for n in range(2)]):
        for other in others:
            engine.submit(other)
        for request, output in zip(requests, finals(engine, *requests), strict=True):
            assert (output.finish_reason, output.token_ids, output.text) == ("length", [], "")
            assert_scored(reference, engine.encode_prompt(request), output)


def test_a_text_is_scored_and_gone_on_with(engine: TorchEngine, reference: PreTrainedModel) -> None:
    (alone,) = run(engine, ask(LONG, sampling=SAMPLED))
    echoing = ask(LONG, sampling=msgspec.structs.replace(SAMPLED, prompt_logprobs=3))
    (output,) = finals(engine, echoing)
    assert output.token_ids == alone.token_ids[:1]
    assert_scored(reference, engine.encode_prompt(echoing), output)
    assert run(engine, echoing)[0].token_ids == alone.token_ids


@pytest.mark.parametrize("kind", ["mean", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_an_embedding_is_pooled_from_transformers_hidden_states(
    kind: str, normalize: bool, engine: TorchEngine, reference: PreTrainedModel
) -> None:
    pooling = msgspec.convert({"kind": kind, "normalize": normalize}, Pooling)
    requests = [Request(id=str(n), prompt=text, pooling=pooling) for n, text in enumerate(TEXTS)]
    run(engine, ask(LONG, sampling=SAMPLED))
    for request, output in zip(requests, finals(engine, *requests), strict=True):
        expected = vector(reference, engine.encode_prompt(request), pooling)
        assert output.embedding is not None
        torch.testing.assert_close(torch.tensor(output.embedding), expected, atol=1e-4, rtol=1e-4)
        assert (output.finish_reason, output.token_ids) == ("length", [])


def test_what_was_pushed_out_of_memory_half_read_is_read_once(
    engine: TorchEngine, reference: PreTrainedModel
) -> None:
    """With another beside it, so that it goes in by small pieces: the first holds nothing that is new to it."""
    last = Pooling(kind="last")
    scoring, pooling, classifying = (
        ask(LONG, id="score", sampling=SCORE),
        Request(id="pool", prompt=LONG, pooling=Pooling(), cache_salt="finds nothing"),
        Request(id="last", prompt=LONG, pooling=last, cache_salt="nor this"),
    )
    other = ask("The quick brown fox", id="other", sampling=SAMPLED)
    ids = engine.encode_prompt(scoring)
    assert len(ids) > 600, "more than a step computes"
    read: list[StepOutput] = []
    for request in (scoring, pooling, classifying):
        engine.submit(request)
        engine.step()
        (sequence,) = engine._scheduler.running
        assert sequence.reader is not None
        assert 128 < sequence.reader.position < len(ids)
        engine._scheduler._put_back(sequence)
        engine.submit(other)
        while engine.has_work:
            read += [output for output in engine.step() if output.request_id != other.id]
    engine.check_integrity()
    assert_scored(reference, ids, read[0])
    for output, kind in zip(read[1:], (Pooling(), last), strict=True):
        assert output.embedding is not None, output
        expected = vector(reference, ids, kind)
        torch.testing.assert_close(torch.tensor(output.embedding), expected, atol=1e-4, rtol=1e-4)


def test_a_text_that_is_to_be_a_vector_goes_on_from_no_answer(engine: TorchEngine) -> None:
    with pytest.raises(InvalidRequest):
        engine.submit(Request(id="pool", prompt=LONG, pooling=Pooling(), prior_token_ids=[5]))
    assert not engine.has_work


def test_what_was_read_is_found_by_those_who_come_after(engine: TorchEngine) -> None:
    for reading in (ask(LONG, sampling=SCORE), Request(id="pool", prompt="x" + LONG, pooling=Pooling())):
        finals(engine, reading)
        assert engine.prefix_use.reused == 0, "who reads computes everything"
    run(engine, ask(LONG, sampling=SAMPLED), ask("x" + LONG, id="two", sampling=SAMPLED))
    assert engine.prefix_use.reused > 700


def test_figures_say_how_full_the_cache_is_and_what_was_found_in_it(engine: TorchEngine) -> None:
    empty = engine.figures()
    assert (empty.kv_blocks_used, empty.kv_blocks_kept, empty.prefix_tokens) == (0, 0, 0)
    engine.submit(ask(LONG, sampling=SAMPLED))
    engine.step()
    assert 0 < engine.figures().kv_blocks_used < engine.figures().kv_blocks
    while engine.has_work:
        engine.step()
    once = engine.figures()
    assert once.kv_blocks_used == 0
    assert once.kv_blocks_kept > 0
    assert once.prefix_tokens_reused == 0
    run(engine, ask(LONG, sampling=SAMPLED))
    assert engine.figures().prefix_tokens == 2 * once.prefix_tokens
    assert engine.figures().prefix_tokens_reused > 0.9 * once.prefix_tokens


def test_token_ids_are_a_prompt_as_they_are(engine: TorchEngine, reference: PreTrainedModel) -> None:
    ids = [5, 300, 7, 7, 41]
    (output,) = finals(engine, Request(id="ids", prompt_token_ids=ids, sampling=SCORE))
    assert_scored(reference, ids, output)


def test_a_long_text_never_holds_the_logits_of_all_its_tokens(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab_size = engine._loaded.config.vocab_size
    monkeypatch.setattr("inference.engine.reading._MAX_LOGITS", 7 * vocab_size)
    rows: list[int] = []
    logits = engine._model.logits
    monkeypatch.setattr(engine._model, "logits", lambda hidden: (rows.append(len(hidden)), logits(hidden))[1])
    finals(engine, ask(LONG, sampling=SCORE))
    assert max(rows) == 7


@pytest.mark.parametrize(
    "reading", [ask(LONG, sampling=SCORE), Request(id="p", prompt=LONG, pooling=Pooling())]
)
def test_numbers_that_are_not_finite_are_an_error_and_not_a_score(
    reading: Request, tiny_folder: Path
) -> None:
    engine = load_engine(tiny_folder, dtype="fp32")
    engine._model.embed_tokens.fill_(float("nan"))
    (answer,) = run(engine, reading)
    assert answer.finish_reason == "error"
    assert "not finite" in answer.error
    engine.close()


def test_a_text_that_is_read_can_be_cancelled_half_way(engine: TorchEngine) -> None:
    engine.submit(ask(LONG, id="half", sampling=SCORE))
    engine.step()
    engine.cancel("half")
    (output,) = engine.step()
    assert (output.finish_reason, output.prompt_logprobs) == ("cancelled", None)
    engine.check_integrity()
