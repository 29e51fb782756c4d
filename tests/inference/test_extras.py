"""What a generation gives besides its text: logprobs, scores of its prompt, a vector; in log and row alike."""

from __future__ import annotations

import math
import struct
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from celery import current_app
from django.utils import timezone

from inference import services
from inference.engine.loader import load_engine
from inference.extras import Extras
from inference.follow import StepReader, follow
from inference.models import Generation, ServedModel
from inference.parameters import SamplingParams
from inference.stream import Event, TokenLog
from inference.worker import WorkerHost
from tests.inference.tiny_models import save_model
from tests.scripted_engine import CONTEXT_LENGTH, DIGEST, vector_of
from tests.services import Site, wait_until
from webapp.accounts.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)

PROMPT = "The fox runs over the hill and far away"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    save_model(folder)
    return folder


@pytest.fixture
def model(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="demo", path="demo", digest=DIGEST, architecture="llama", context_length=CONTEXT_LENGTH, parameters=1,
        size_bytes=1, is_default=True,
    )  # fmt: skip


@pytest.fixture(params=["scripted", "tiny"])
def host(
    request: pytest.FixtureRequest, settings: Any, tiny_folder: Path, model: ServedModel
) -> Iterator[WorkerHost]:
    """A worker with the scripted engine, which has to keep the real one's contract, or with a tiny model."""
    settings.INFERENCE_ENGINE = f"{__name__}.{request.param}_engine"
    settings.MODELS_DIR = tiny_folder.parent
    ServedModel.objects.update(path="tiny")
    host = WorkerHost(give_up=lambda: None)
    host.start()
    yield host
    host.stop()


def scripted_engine(model: ServedModel) -> Any:
    from tests.scripted_engine import ScriptedEngine

    return ScriptedEngine(rate=2000, tokens=10)


def tiny_engine(model: ServedModel) -> Any:
    return load_engine(model.location, dtype="fp32", max_running=8)


@pytest.fixture
def run(
    host: WorkerHost, workspace: Workspace, model: ServedModel
) -> Callable[..., tuple[Generation, list[Event]]]:
    """Runs one generation to its end: its row and its log."""

    def run(**fields: Any) -> tuple[Generation, list[Event]]:
        generation = services.start_generation(workspace=workspace, model=model, seed=5, **fields)
        host.run(str(generation.id))
        log = wait_until(lambda: whole_log(services.token_log(), generation), "the log to end")
        generation.refresh_from_db()
        return generation, log

    return run


def whole_log(log: TokenLog, generation: Generation) -> list[Event]:
    events = log.read(generation.id)
    return events if events and events[-1].type in ("done", "refused") else []


def vector(packed: str) -> list[float]:
    raw = b64decode(packed)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def test_each_token_of_an_answer_has_its_logprob_and_those_of_its_rivals(run: Any) -> None:
    row, log = run(prompt=PROMPT, params=SamplingParams(logprobs=3, max_tokens=8, temperature=1.0))
    assert row.state == "complete", row.error_message
    items = row.extras["logprobs"]
    texts = [event.data for event in log if event.type == "text"]
    assert [item for data in texts for item in data["logprobs"]] == items
    assert all(len(data["logprobs"]) == len(data["ids"]) for data in texts)
    assert len(items) == row.completion_tokens
    assert b"".join(bytes(item["bytes"]) for item in items).decode(errors="replace").startswith(row.text)
    for item in items:
        assert item["token"] == bytes(item["bytes"]).decode(errors="replace").replace("\x00", "\ufffd")
        assert item["logprob"] <= 0
        rivals = [other["logprob"] for other in item["top_logprobs"]]
        assert len(rivals) == 3
        assert rivals == sorted(rivals, reverse=True)
        assert all(set(other) == {"token", "logprob", "bytes"} for other in item["top_logprobs"])
        assert (item["logprob"] in rivals) or item["logprob"] < min(rivals)


def test_without_being_asked_for_there_is_nothing_but_the_text(run: Any) -> None:
    row, log = run(prompt=PROMPT, params=SamplingParams(max_tokens=4))
    assert row.extras == {}
    assert {event.type for event in log} == {"admitted", "text", "done"}
    assert not any("logprobs" in event.data for event in log)


def test_a_prompt_is_scored_before_the_first_word_and_once(run: Any) -> None:
    row, log = run(prompt=PROMPT, params=SamplingParams(prompt_logprobs=2, max_tokens=3))
    assert [event.type for event in log[:3]] == ["admitted", "prompt", "text"]
    items = row.extras["prompt_logprobs"]
    assert log[1].data == {"logprobs": items}
    assert len(items) == row.prompt_tokens
    assert b"".join(bytes(item["bytes"]) for item in items).decode() == PROMPT
    assert items[0]["logprob"] is None
    assert all(item["logprob"] <= 0 and len(item["top_logprobs"]) == 2 for item in items[1:])
    assert "logprobs" not in row.extras


def test_a_prompt_may_be_scored_without_a_word_being_added(run: Any) -> None:
    row, log = run(prompt=PROMPT, params=SamplingParams(prompt_logprobs=0, max_tokens=0))
    assert (row.state, row.text, row.completion_tokens, row.finish_reason) == ("complete", "", 0, "length")
    assert [event.type for event in log] == ["admitted", "prompt", "done"]
    assert len(row.extras["prompt_logprobs"]) == row.prompt_tokens


def test_a_prompt_may_be_tokens(run: Any) -> None:
    row, _ = run(prompt=[3, 4, 5, 6], params=SamplingParams(prompt_logprobs=0, logprobs=0, max_tokens=2))
    assert (row.state, row.prompt_tokens, row.completion_tokens) == ("complete", 4, 2)
    assert len(row.extras["prompt_logprobs"]) == 4
    assert len(row.extras["logprobs"]) == 2


def test_choices_of_one_prompt_differ_and_the_same_choice_does_not(run: Any) -> None:
    asked = SamplingParams(max_tokens=12, temperature=1.0)
    texts = [run(prompt=PROMPT, params=asked, choice=choice)[0].text for choice in (0, 1, 1)]
    assert texts[0] != texts[1] == texts[2]


def test_a_text_becomes_a_vector_of_length_one(run: Any) -> None:
    row, log = run(prompt=PROMPT, purpose="embedding")
    assert (row.state, row.text, row.completion_tokens) == ("complete", "", 0)
    assert [event.type for event in log] == ["admitted", "result", "done"]
    assert log[1].data == row.extras
    assert set(row.extras) == {"embedding"}
    assert math.hypot(*vector(row.extras["embedding"])) == pytest.approx(1, abs=1e-5)
    again, _ = run(prompt=PROMPT, purpose="embedding")
    assert vector(again.extras["embedding"]) == pytest.approx(vector(row.extras["embedding"]), abs=1e-5)
    other, _ = run(prompt="Something else", purpose="embedding")
    assert other.extras["embedding"] != row.extras["embedding"]


def test_a_prompt_that_is_too_long_is_refused_with_both_figures(run: Any) -> None:
    row, log = run(prompt="hill " * 20_000, purpose="api")
    assert (row.state, row.error_code) == ("refused", "prompt_too_long")
    [refused] = log
    assert refused.data["prompt_tokens"] > refused.data["context_length"] > 0
    assert refused.data == {"code": row.error_code, "message": row.error_message, **row.extras}
    assert str(refused.data["prompt_tokens"]) in row.error_message


@pytest.mark.parametrize("prompt", ["", [10_000_000]])
def test_a_prompt_that_is_none_is_refused_and_nothing_breaks(run: Any, prompt: Any) -> None:
    row, _ = run(prompt=prompt)
    assert (row.state, row.error_code) == ("refused", "invalid_request")
    assert run(prompt=PROMPT, params=SamplingParams(max_tokens=2))[0].state == "complete"


def test_a_reader_that_comes_when_the_log_is_gone_is_given_it_all(
    workspace: Workspace, model: ServedModel
) -> None:
    extras = {"logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
    generation = Generation.objects.create(
        workspace=workspace, model=model, seed=1, state="complete", text="a", extras=extras,
        sent_at=timezone.now(), deadline=timezone.now(),
    )  # fmt: skip

    async def followed() -> list[Event]:
        events = [event async for event in follow(generation.id)]
        await StepReader.current().close()
        return events

    events = async_to_sync(followed)()  # with its queries in this thread, whose connection is closed
    assert [event.type for event in events] == ["reset", "done"]
    assert events[0].data == {"text": "a", "extras": extras}


def test_no_number_is_written_that_a_database_does_not_take() -> None:
    from inference.engine.interface import AlternativeToken, TokenLogprob
    from inference.extras import logprob_items

    [item] = logprob_items([TokenLogprob(1, b"\x00\xf0", -math.inf, [AlternativeToken(2, b"", -math.nan)])])
    assert (item["token"], item["bytes"], item["logprob"]) == ("\ufffd\ufffd", [0, 240], -9999.0)
    assert item["top_logprobs"] == [{"token": "", "bytes": [], "logprob": -9999.0}]


# --- real processes ---------------------------------------------------------------------------------------------


def begin(site: Site, **fields: Any) -> Generation:
    with site.rows():
        generation = services.start_generation(
            workspace=Workspace.objects.get(name="Acme"), model=services.default_model(), seed=11, **fields
        )
    with current_app.connection_for_write(site.valkey.url) as connection:
        task = {"args": [str(generation.id)], "queue": "generate", "connection": connection}
        current_app.send_task("inference.generate", **task)
    return generation


def ended(site: Site, generation: Generation) -> Generation:
    def row() -> Generation | None:
        generation.refresh_from_db()
        return generation if generation.is_finished else None

    with site.rows():
        return wait_until(row, "the generation to end", 30)


@pytest.mark.faults
def test_what_a_killed_worker_had_given_is_in_the_final_row(live_site: Site) -> None:
    asked = SamplingParams(logprobs=2, prompt_logprobs=1)
    prompt = f"{PROMPT} tokens=120 rate=60"
    undisturbed = ended(live_site, begin(live_site, prompt=prompt, params=asked))
    generation = begin(live_site, prompt=prompt, params=asked)
    log = TokenLog(live_site.valkey.client())

    def texts() -> int:
        return sum(event.type == "text" for event in log.read(generation.id))

    wait_until(lambda: texts() > 10, "some text", 30)
    live_site.inference[0].kill()
    live_site.start_inference()
    row = ended(live_site, generation)
    assert (row.state, row.attempt) == ("complete", 2)
    assert (row.text, row.extras) == (undisturbed.text, undisturbed.extras)
    assert len(row.extras["logprobs"]) == 120
    events = wait_until(lambda: whole_log(log, generation), "the log to end")
    assert Extras.logged(events).as_row() == row.extras
    assert [event.type for event in events].count("prompt") == 1


@pytest.mark.faults
def test_what_its_workers_died_over_keeps_its_logprobs(workspace: Workspace, model: ServedModel) -> None:
    from inference.stream import Append, encode_event

    generation = services.start_generation(workspace=workspace, model=model, prompt="x")
    items = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]
    event = encode_event(0, "text", {"text": "a", "ids": [1], "logprobs": items})
    services.token_log().append([Append(str(generation.id), 0, [(1, event)])])
    assert services.end_unclaimed(generation=generation, state="interrupted")
    generation.refresh_from_db()
    assert (generation.text, generation.extras) == ("a", {"logprobs": items})


def test_a_sentence_is_closer_to_its_paraphrase_than_to_another(model_site: Site) -> None:
    sentences = [
        "The cat slept on the warm windowsill all afternoon.",
        "All afternoon the cat was sleeping on the warm window ledge.",
        "Quarterly revenue grew by nine percent after the merger.",
    ]
    rows = [begin(model_site, prompt=sentence, purpose="embedding") for sentence in sentences]
    first, paraphrase, other = (vector(ended(model_site, row).extras["embedding"]) for row in rows)
    assert len(first) == 576
    assert sum(map(float.__mul__, first, paraphrase)) > sum(map(float.__mul__, first, other)) + 0.02


def test_texts_with_words_in_common_are_close_for_the_scripted_engine_too() -> None:
    first, close, other = (vector_of(text) for text in ("a red fox runs", "a red fox sleeps", "nine percent"))
    assert sum(map(float.__mul__, first, close)) > sum(map(float.__mul__, first, other))
