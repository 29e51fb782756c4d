"""OpenAI's own client, sync and async, from a JSONL file to a chat with what learnt from it: real workers, a real
trainer, the demo model."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.services import ROOT, Site, wait_until
from tests.webapp.api.data_work import ORDERS, chat, jsonl
from tests.webapp.api.live_clients import async_openai_client, key_of, new_key, openai_client, outsider

# Trainers import torch and load a model: seconds, and minutes on a machine that has other things to do.
pytestmark = pytest.mark.timeout(1200)
BASE = "smollm2-135m-instruct"
SCRIPT = ROOT / "docs" / "examples" / "openai_fine_tune.py"
PATIENCE = 500.0  # seconds


@pytest.fixture(scope="module")
def learning_site(_session_model_site: Site) -> Iterator[Site]:
    """The site of the demo model, with the workers of data and of training."""
    site = _session_model_site
    site.heal()
    site.start_data()
    site.start_training()
    yield site
    site.training.stop()
    site.data.stop()


@pytest.fixture
def client(learning_site: Site) -> openai.OpenAI:
    return openai_client(learning_site, key_of(learning_site))


@pytest.mark.one_database  # of what the script does in fine_tuning and below
def test_a_script_written_for_openai_runs_as_it_is(learning_site: Site, tmp_path: Path) -> None:
    examples = tmp_path / "orders.jsonl"
    examples.write_bytes(jsonl(chat(n) for n in range(20)))
    environment = {
        "PATH": os.environ["PATH"],
        "OPENAI_BASE_URL": f"{learning_site.base_url}/v1",
        "OPENAI_API_KEY": key_of(learning_site),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(examples), "Where is order 7?", "--epochs", "2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{BASE}: ")
    assert lines[1].startswith(f"{BASE}, streamed: ")
    assert any(line.startswith("running: Step ") and "training loss=" in line for line in lines)
    assert any("validation loss=" in line for line in lines)
    # In order, and none twice.
    steps = [line for line in lines if "training loss=" in line]
    assert len(steps) == len(set(steps)) > 3
    checkpoints = [line for line in lines if line.startswith("checkpoint ")]
    assert any(":ckpt-step-" in line for line in checkpoints)
    assert "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy" in done.stdout
    name, _, answer = lines[-1].partition(": ")
    assert name.startswith(f"ft:{BASE}:acme:support:")
    assert "order 7" in answer.lower()
    asked_by_name(learning_site, name, checkpoints)


def asked_by_name(site: Site, name: str, checkpoints: list[str]) -> None:
    """The model and its checkpoints are listed, and answer; for nobody else they are there."""
    client, theirs = openai_client(site, key_of(site)), openai_client(site, outsider(site))
    named = [line.rsplit(" ", 1)[1] for line in checkpoints if "ft:" in line]
    assert name in named
    assert {name, *named} <= {model.id for model in client.models.list()}
    checkpoint = next(each for each in named if ":ckpt-step-" in each)
    question: Any = [{"role": "user", "content": "Where is order 7?"}]
    said = client.chat.completions.create(model=checkpoint, messages=question, max_tokens=5)
    assert said.choices[0].message.content
    assert said.model == checkpoint
    for model in (name, checkpoint):
        with pytest.raises(openai.NotFoundError) as caught:
            theirs.chat.completions.create(model=model, messages=question, max_tokens=5)
        assert caught.value.code == "model_not_found"


def test_a_faulty_file_fails_the_job_with_file_line_and_reason(client: openai.OpenAI) -> None:
    faulty = ORDERS + b'{"messages": [\n' + jsonl([{"messages": [{"role": "user", "content": "Hello?"}]}])
    file = client.files.create(file=("faulty.jsonl", faulty), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id)
    assert job.status == "validating_files"
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "failed", "it to fail", PATIENCE)
    error = client.fine_tuning.jobs.retrieve(job.id).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_training_file", "training_file")
    assert "faulty.jsonl, line 31: " in error.message
    newest = client.fine_tuning.jobs.list_events(job.id, limit=1).data[0]
    assert (newest.level, newest.type, newest.message) == ("error", "message", error.message)
    processed = client.files.wait_for_processing(file.id, poll_interval=0.1)
    assert processed.status == "error"
    assert "line 31" in (processed.status_details or "")
    assert client.files.content(file.id).content == faulty
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_files_are_paged_through_and_large_ones_streamed(client: openai.OpenAI, tmp_path: Path) -> None:
    large = tmp_path / "large.jsonl"
    # More than any other request may have, in few lines, each of which is looked at.
    line = json.dumps({"messages": [{"role": "user", "content": "Where is it? " * 8000}]}).encode() + b"\n"
    large.write_bytes(line * (6_000_000 // len(line)))
    with large.open("rb") as content:
        made = [client.files.create(file=content, purpose="fine-tune")]
    made += [client.files.create(file=(f"{n}.jsonl", ORDERS), purpose="fine-tune") for n in range(2)]
    found = [file.id for file in client.files.list(limit=2, purpose="fine-tune")]
    assert found[:3] == [file.id for file in made[::-1]]
    assert made[0].bytes == large.stat().st_size
    assert client.files.content(made[0].id).content == large.read_bytes()
    for file in made:
        client.files.wait_for_processing(file.id, poll_interval=0.1)
        client.files.delete(file.id)


def test_a_table_becomes_a_classifier_that_is_judged_and_judges(
    client: openai.OpenAI, learning_site: Site
) -> None:
    said = {
        "praise": ("wonderful", "excellent", "lovely", "brilliant", "perfect"),
        "complaint": ("terrible", "broken", "awful", "useless", "dreadful"),
    }
    # No two so alike that they would have to be in the same split.
    things = ("The parcel", "Your agent", "My shoes", "This website", "Our refund", "Every delivery")
    rows = [f"{thing}: {word},{label}" for label, words in said.items() for thing in things for word in words]
    table = "\n".join(["text,label", *rows]).encode()
    file = client.files.create(file=("tickets.csv", table), purpose="fine-tune")
    asked: dict[str, Any] = {
        "task": "classification",
        "max_steps": 2,
        "max_length": 16,
        "recipe": {"split": {"validation": 0.1, "test": 0.3}},
    }
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=file.id, suffix="tickets", extra_body={"flywheel": asked}
    )

    def ended() -> Any:
        found = client.fine_tuning.jobs.retrieve(job.id)
        return found if found.status in ("succeeded", "failed") else None

    done = wait_until(ended, "the classifier", PATIENCE, every=0.5)
    assert done.status == "succeeded", done.error
    judged = done.flywheel["evaluation"]
    assert (judged["split"], judged["kind"], judged["labels"]) == ("test", "binary", ["complaint", "praise"])
    assert judged["examples"] > 10
    assert 0 <= judged["accuracy"] <= 1
    assert set(judged["macro"]) == {"precision", "recall", "f1", "roc_auc"}
    assert all(each["roc"] for each in judged["classes"])
    page = learning_site.log_in().get(f"/fine-tunes/{uuid.UUID(job.id.removeprefix('ftjob-'))}/").text
    assert all(each in page for each in ("ROC curve", "Confusion matrix", "<svg"))
    answer = client.moderations.create(model=done.fine_tuned_model, input=["My parcel: terrible"])
    scores: Any = answer.results[0].category_scores
    assert scores.complaint + scores.praise == pytest.approx(1)


def test_errors_are_the_exceptions_that_openais_client_has_for_them(
    client: openai.OpenAI, learning_site: Site
) -> None:
    jobs = client.fine_tuning.jobs
    for refused, kind, code in (
        (lambda: client.files.retrieve("file-nonsense"), openai.NotFoundError, "not_found"),
        (
            lambda: client.files.create(file=("a.jsonl", b"x"), purpose="assistants"),
            openai.BadRequestError,
            "unsupported_value",
        ),
        (lambda: jobs.create(model=BASE, training_file="file-x"), openai.NotFoundError, "file_not_found"),
        (lambda: jobs.create(model="gpt-9", training_file="file-x"), openai.NotFoundError, "model_not_found"),
        (
            lambda: jobs.create(model=BASE, training_file="x", method={"type": "dpo"}),
            openai.BadRequestError,
            "unsupported_parameter",
        ),
        (
            lambda: openai_client(learning_site, "fw-wrong").files.list(),
            openai.AuthenticationError,
            "invalid_api_key",
        ),
        (
            lambda: openai_client(learning_site, new_key(learning_site, "alice@example.org", "chat")).files.list(),
            openai.PermissionDeniedError,
            "missing_scope",
        ),
    ):  # fmt: skip
        with pytest.raises(kind) as caught:
            refused()
        assert caught.value.code == code
    file = client.files.create(file=("orders.jsonl", ORDERS), purpose="fine-tune")
    job = jobs.create(model=BASE, training_file=file.id)
    theirs = openai_client(learning_site, outsider(learning_site))
    for ask in (
        theirs.fine_tuning.jobs.retrieve,
        theirs.fine_tuning.jobs.cancel,
        theirs.fine_tuning.jobs.list_events,
    ):
        with pytest.raises(openai.NotFoundError):
            ask(job.id)
    with pytest.raises(openai.ConflictError):
        client.files.delete(file.id)
    jobs.cancel(job.id)
    wait_until(lambda: jobs.retrieve(job.id).status == "cancelled", "the job to be cancelled", PATIENCE)
    with pytest.raises(openai.ConflictError):
        jobs.cancel(job.id)
    client.files.delete(file.id)


@pytest.mark.asyncio
async def test_a_running_job_is_paused_resumed_and_cancelled_by_the_async_client(learning_site: Site) -> None:
    async with async_openai_client(learning_site, await asyncio.to_thread(key_of, learning_site)) as client:
        jobs = client.fine_tuning.jobs
        training = await client.files.create(file=("orders.jsonl", ORDERS), purpose="fine-tune")
        judged = jsonl(chat(n) for n in range(100, 104))
        validation = await client.files.create(file=("judged.jsonl", judged), purpose="fine-tune")
        job = await jobs.create(
            model=BASE,
            training_file=training.id,
            validation_file=validation.id,
            seed=7,
            metadata={"team": "support"},
            hyperparameters={"n_epochs": 50, "batch_size": 4, "learning_rate_multiplier": 0.5},
            extra_body={"flywheel": {"checkpoint_every": 1000, "max_length": 64, "lora": {"r": 4}}},
        )

        async def until(status: str) -> Any:
            async with asyncio.timeout(PATIENCE):
                while (found := await jobs.retrieve(job.id)).status != status:
                    assert found.error is None, found.error
                    await asyncio.sleep(0.2)
                return found

        async def steps() -> list[int]:
            found = [event async for event in jobs.list_events(job.id, limit=100)]
            return [
                event.data["step"]
                for event in found
                if event.type == "metrics" and "train_loss" in event.data
            ]  # type: ignore[index, operator]

        running = await until("running")
        assert (running.seed, running.metadata) == (7, {"team": "support"})
        assert running.hyperparameters.learning_rate_multiplier == 0.5
        async with asyncio.timeout(PATIENCE):
            while not await steps():
                await asyncio.sleep(0.2)
        await jobs.pause(job.id)
        await until("paused")
        before = await steps()
        assert before == list(range(before[0], 0, -1))
        saved = [checkpoint.step_number async for checkpoint in jobs.checkpoints.list(job.id)]
        assert saved == [before[0]]
        assert (await jobs.resume(job.id)).status in ("queued", "running")
        await until("running")
        async with asyncio.timeout(PATIENCE):
            while len(await steps()) <= len(before):
                await asyncio.sleep(0.2)
        await jobs.cancel(job.id)
        await until("cancelled")
        after = await steps()
        assert after == list(range(after[0], 0, -1))
        listed = [found.id async for found in jobs.list(limit=1, metadata={"team": "support"})]
        assert listed == [job.id]
