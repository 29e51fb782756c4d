"""/v1/fine_tuning/jobs: from files to a queued job, told as OpenAI tells it."""

from __future__ import annotations

import json

import pytest
from django.test import Client

from tests.webapp.api.data_work import ORDERS, chat, jsonl, upload, uploaded, work
from tests.webapp.api.fine_tuning.asking import JOBS, Ask, messages, now, refused, row, splits
from training import job_files, job_life, storage
from training import work as life
from training.datasets.frozen import read_split
from training.models import DatasetVersion, DataWork

pytestmark = pytest.mark.django_db


# --- From files to the queue -------------------------------------------------------------------------------------
def test_a_job_waits_for_its_file_and_is_queued(alices: Client, ask: Ask) -> None:
    file = upload(alices).json()["id"]
    body = ask(training_file=file, suffix="orders", metadata={"team": "support"}).json()
    assert (body["object"], body["status"], body["model"]) == ("fine_tuning.job", "validating_files", "tiny")
    assert (body["training_file"], body["validation_file"], body["metadata"]) == (
        file,
        None,
        {"team": "support"},
    )
    assert (body["fine_tuned_model"], body["error"], body["finished_at"]) == (None, None, None)
    assert body["hyperparameters"] == {
        "n_epochs": 3,
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
    }
    assert body["method"]["supervised"]["hyperparameters"] == body["hyperparameters"]
    work()
    body = now(alices, body["id"])
    assert (body["status"], body["flywheel"]["task"]) == ("queued", "chat")
    found = splits(body["id"])
    assert found["train"] + found["validation"] == 30
    assert 0 < found["validation"] < 10
    assert messages(alices, body["id"]) == ["validating", "frozen", "created"]
    claimed = job_life.claim_next()
    assert claimed is not None
    assert now(alices, body["id"])["status"] == "running"


def test_what_was_frozen_for_one_job_is_used_again_by_the_next(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    first = ask(training_file=file).json()["id"]
    second = ask(training_file=file).json()["id"]
    work()
    third = ask(training_file=file).json()["id"]
    work()
    assert {now(alices, job)["status"] for job in (first, second, third)} == {"queued"}
    assert len({row(job).version_id for job in (first, second, third)}) == 1
    assert DatasetVersion.objects.count() == 1
    assert DataWork.objects.filter(kind="freeze").count() == 1


def test_texts_are_learnt_as_they_were_sent(alices: Client, ask: Ask) -> None:
    """Nobody looks at what cleaning would do; a recipe says what is wanted."""
    odd = {
        "messages": [{"role": "user", "content": "cafÃ©  ?"}, {"role": "assistant", "content": "a\n\n\n\nb "}]
    }
    file = uploaded(alices, ORDERS + jsonl([odd, odd]))
    plain = ask(training_file=file).json()["id"]
    work()
    folder = storage.version_folder(row(plain).version)  # type: ignore[arg-type]
    kept = "".join((folder / f"{split}.jsonl").read_text() for split in ("train", "validation"))
    assert kept.count(json.dumps("cafÃ©  ?", ensure_ascii=False)) == 2
    recipe = {"deduplicate": "exact", "split": {"validation": 0.2, "test": 0.1}}
    cleaned = ask(training_file=file, flywheel={"recipe": recipe}).json()["id"]
    work()
    assert sum(splits(cleaned).values()) == 31
    folder = storage.version_folder(row(cleaned).version)  # type: ignore[arg-type]
    assert "café ?" in "".join((folder / f"{split}.jsonl").read_text() for split in splits(cleaned))


def test_a_validation_file_is_the_validation_split(alices: Client, ask: Ask) -> None:
    training = uploaded(alices)
    validation = uploaded(alices, jsonl(chat(n) for n in range(100, 107)), "judged.jsonl")
    body = ask(training_file=training, validation_file=validation).json()
    work()
    assert now(alices, body["id"])["status"] == "queued"
    assert now(alices, body["id"])["validation_file"] == validation
    assert splits(body["id"]) == {"train": 30, "validation": 7, "test": 0}
    folder = storage.version_folder(row(body["id"]).version)  # type: ignore[arg-type]
    judged = list(read_split(folder, "validation"))
    assert [example.messages[0].content for example in judged] == [  # type: ignore[union-attr]
        f"Where is order {n}?" for n in range(100, 107)
    ]
    again = ask(training_file=training, validation_file=validation).json()["id"]
    work()
    assert row(again).version_id == row(body["id"]).version_id
    alone = ask(training_file=training).json()["id"]
    work()
    assert splits(alone)["train"] < 30


@pytest.mark.parametrize("answer", [{"label": "delivery"}, {"score": 1.5}])
def test_labels_and_numbers_of_a_file_are_judged_by_a_test_split_that_was_held_back(
    answer: dict[str, object], alices: Client, ask: Ask
) -> None:
    (name,) = answer
    other = {"label": "billing", "score": 4.5}[name]
    rows = [
        {"text": f"text {n} of {n * 7919} letters", **(answer if n % 2 else {name: other})} for n in range(90)
    ]
    file = uploaded(alices, jsonl(rows))
    body = ask(training_file=file).json()
    work()
    held = splits(body["id"])
    assert sum(held.values()) == 90
    assert held["test"] >= 3
    assert held["validation"] >= 3
    again = ask(training_file=file).json()["id"]
    work()
    assert row(again).version_id == row(body["id"]).version_id
    judged = uploaded(alices, jsonl({"text": f"other {n}", **answer} for n in range(5)))
    given = ask(training_file=file, validation_file=judged).json()["id"]
    work()
    assert splits(given) == {"train": 90, "validation": 5, "test": 0}
    own = ask(training_file=file, flywheel={"recipe": {"split": {"validation": 0.2, "test": 0}}}).json()["id"]
    work()
    assert splits(own)["test"] == 0


def test_the_same_file_may_be_learnt_and_judged_by(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    body = ask(training_file=file, validation_file=file).json()
    work()
    assert splits(body["id"]) == {"train": 30, "validation": 30, "test": 0}


def test_a_frozen_version_is_learnt_from_at_once(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    work()
    first = ask(training_file=file).json()["id"]
    work()
    version = now(alices, first)["flywheel"]["version"]
    body = ask(training_file=version, suffix="again").json()
    assert (body["status"], body["training_file"], body["validation_file"]) == ("queued", version, None)
    assert refused(ask(training_file=version, validation_file=file)) == (
        400, "unsupported_parameter", "validation_file",
    )  # fmt: skip


# --- Cancel, pause, resume -------------------------------------------------------------------------------------
def test_a_job_is_cancelled_paused_and_resumed_while_its_files_are_checked(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    job = ask(training_file=file).json()["id"]
    job_files.advance_all()
    freezing = DataWork.objects.get(kind="freeze")
    assert alices.post(f"{JOBS}/{job}/pause").json()["status"] == "paused"
    work()
    assert now(alices, job)["status"] == "paused"
    assert alices.post(f"{JOBS}/{job}/resume").json()["status"] == "validating_files"
    work()
    assert now(alices, job)["status"] == "queued"
    assert alices.post(f"{JOBS}/{job}/cancel").json()["status"] == "cancelled"
    assert refused(alices.post(f"{JOBS}/{job}/cancel"))[:2] == (409, "job_finished")
    assert refused(alices.post(f"{JOBS}/{job}/resume"))[:2] == (409, "job_not_paused")
    freezing.refresh_from_db()
    assert freezing.state == "ready"


def test_cancelling_ends_the_freezing_that_nobody_else_waits_for(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    job = ask(training_file=file).json()["id"]
    job_files.advance_all()
    alices.post(f"{JOBS}/{job}/cancel")
    assert DataWork.objects.get(kind="freeze").state == "cancelled"
    assert not DatasetVersion.objects.exists()


def test_a_freezing_that_a_person_cancels_fails_the_job(alices: Client, ask: Ask) -> None:
    job = ask(training_file=uploaded(alices)).json()["id"]
    job_files.advance_all()
    life.cancel_work(work=DataWork.objects.get(kind="freeze"))
    work()
    assert now(alices, job)["error"]["code"] == "cancelled"
