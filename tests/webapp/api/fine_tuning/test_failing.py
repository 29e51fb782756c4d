"""What fails a job of /v1/fine_tuning/jobs before it is queued, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tests.webapp.api.data_work import ORDERS, jsonl, upload, uploaded, work
from tests.webapp.api.fine_tuning.asking import JOBS, Ask, messages, now, row, splits
from training import data_worker, job_files, storage, tasks
from training import work as life
from training.models import Dataset, DataWork, SourceFile

pytestmark = pytest.mark.django_db


# --- What fails a job ------------------------------------------------------------------------------------------
def test_an_example_that_cannot_be_learnt_fails_the_job_and_is_named(alices: Client, ask: Ask) -> None:
    bad = {"messages": [{"role": "user", "content": "Hello?"}]}
    file = uploaded(alices, ORDERS + jsonl([bad, {"prompt": 1}]), "faulty.jsonl")
    body = ask(training_file=file).json()
    work()
    body = now(alices, body["id"])
    assert body["status"] == "failed"
    assert (body["error"]["code"], body["error"]["param"]) == ("invalid_training_file", "training_file")
    assert "faulty.jsonl, line 31: " in body["error"]["message"]
    assert "(example_missing_assistant_message)" in body["error"]["message"]
    assert "2 such problems" in body["error"]["message"]
    newest = alices.get(f"{JOBS}/{body['id']}/events").json()["data"][0]
    assert (newest["level"], newest["message"]) == ("error", body["error"]["message"])
    skipping = ask(training_file=file, flywheel={"invalid_examples": "skip"}).json()["id"]
    work()
    assert sum(splits(skipping).values()) == 30
    assert "problems" in messages(alices, skipping)


def test_a_validation_file_that_cannot_be_used_is_named(alices: Client, ask: Ask) -> None:
    training, faulty = uploaded(alices), uploaded(alices, b'{"messages": 3}\n', "faulty.jsonl")
    body = ask(training_file=training, validation_file=faulty).json()
    work()
    error = now(alices, body["id"])["error"]
    assert (error["code"], error["param"]) == ("invalid_validation_file", "validation_file")
    assert "faulty.jsonl, line 1" in error["message"]


def test_data_of_a_kind_that_nothing_is_learnt_from_fails_the_job(alices: Client, ask: Ask) -> None:
    def side(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": f"Question {n}?"}]},
            "preferred_output": side(f"Yes {n}"),
            "non_preferred_output": side(f"No {n}"),
        }
        for n in range(20)
    ]
    body = ask(training_file=uploaded(alices, jsonl(pairs))).json()
    work()
    error = now(alices, body["id"])["error"]
    assert (error["code"], error["param"]) == ("bad_task", "training_file")


def test_files_of_two_kinds_fail_the_job(alices: Client, ask: Ask) -> None:
    labelled = uploaded(alices, jsonl({"text": f"text {n}", "label": "ab"[n % 2]} for n in range(20)))
    body = ask(training_file=uploaded(alices), validation_file=labelled).json()
    work()
    assert now(alices, body["id"])["error"]["code"] == "mixed_kinds"


def test_a_task_that_does_not_fit_the_file_fails_the_job(alices: Client, ask: Ask) -> None:
    body = ask(training_file=uploaded(alices), flywheel={"task": "classification"}).json()
    work()
    assert now(alices, body["id"])["error"]["code"] == "bad_task"


def test_a_file_whose_bytes_vanish_fails_the_job(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    body = ask(training_file=file).json()
    storage.source_path(SourceFile.objects.get()).unlink()
    work()
    error = now(alices, body["id"])["error"]
    assert (error["code"], error["param"]) == ("file_not_found", "training_file")


def test_a_file_that_vanishes_with_its_dataset_fails_the_job(alices: Client, ask: Ask) -> None:
    body = ask(training_file=uploaded(alices)).json()
    Dataset.objects.all().delete()
    work()
    error = now(alices, body["id"])["error"]
    assert (error["code"], error["param"]) == ("file_not_found", "training_file")
    assert alices.post(f"{JOBS}/{body['id']}/resume").json()["status"] == "validating_files"
    work()
    assert now(alices, body["id"])["status"] == "failed"


# --- Whatever dies ---------------------------------------------------------------------------------------------
def test_a_worker_that_dies_while_it_freezes_costs_time_and_nothing_else(alices: Client, ask: Ask) -> None:
    body = ask(training_file=uploaded(alices)).json()
    job_files.advance_all()
    freezing = DataWork.objects.get(kind="freeze")
    claimed = life.claim_work(work_id=freezing.id)
    assert claimed is not None
    storage.work_folder(claimed).mkdir(parents=True)
    (storage.work_folder(claimed) / "half").write_text("made")
    tasks.reap_jobs()
    assert now(alices, body["id"])["status"] == "validating_files"
    DataWork.objects.filter(id=freezing.id).update(heartbeat_at=timezone.now() - life.LEASE * 1.1)
    tasks.reap()
    work()
    assert now(alices, body["id"])["status"] == "queued"
    assert not storage.work_folder(claimed).exists()


def test_a_freezing_that_always_dies_fails_the_job_which_can_be_resumed(alices: Client, ask: Ask) -> None:
    body = ask(training_file=uploaded(alices)).json()
    job_files.advance_all()
    freezing = DataWork.objects.get(kind="freeze")
    for _ in range(life.MAX_CRASHES):
        assert life.claim_work(work_id=freezing.id) is not None
        DataWork.objects.filter(id=freezing.id).update(heartbeat_at=timezone.now() - life.LEASE * 1.1)
        tasks.reap()
    tasks.reap_jobs()
    body = now(alices, body["id"])
    assert (body["status"], body["error"]["code"]) == ("failed", "worker_lost")
    body = alices.post(f"{JOBS}/{body['id']}/resume").json()
    assert (body["status"], body["error"]) == ("validating_files", None)
    work()
    assert now(alices, body["id"])["status"] == "queued"


def test_a_check_that_failed_before_is_tried_once_more(
    alices: Client, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(work_: DataWork, progress: object) -> bool:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setitem(data_worker._DOING, DataWork.Kind.REPORT, broken)
        file = uploaded(alices)
        body = ask(training_file=file).json()
        work()
    body = now(alices, body["id"])
    assert (body["status"], body["error"]["code"]) == ("failed", "invalid_training_file")
    assert alices.get(f"/v1/files/{file}").json()["status"] == "error"
    again = ask(training_file=file).json()["id"]
    work()
    assert now(alices, again)["status"] == "queued"


def test_what_a_check_left_is_made_anew_where_it_is_gone(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    report = DataWork.objects.get(kind="report")
    body = ask(training_file=file).json()
    job_files.advance_all()
    storage.remove_folder(storage.work_folder(report))  # between the check and the freezing
    work()
    assert now(alices, body["id"])["status"] == "queued"
    assert DataWork.objects.filter(kind="report").count() == 2


def test_an_error_of_ours_fails_the_job_and_no_other(
    alices: Client, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = uploaded(alices)
    first, second = (ask(training_file=file).json()["id"] for _ in range(2))
    advance = job_files.advance

    def broken(job_id: Any) -> None:
        if job_id == row(first).id:
            raise ValueError("nobody thought of this")
        advance(job_id)

    monkeypatch.setattr(job_files, "advance", broken)
    work()
    assert now(alices, first)["error"]["code"] == "internal"
    assert now(alices, second)["status"] == "queued"


def test_what_ends_has_the_jobs_that_wait_looked_at(
    alices: Client, ask: Ask, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    sent: list[str] = []
    monkeypatch.setattr("celery.Celery.send_task", lambda app, name, *_, **__: sent.append(name))
    file = upload(alices).json()["id"]
    with django_capture_on_commit_callbacks(execute=True):
        ask(training_file=file)
    assert sent == ["jobs.prepare"]
    detecting = DataWork.objects.get()
    claimed = life.claim_work(work_id=detecting.id)
    assert claimed is not None
    with django_capture_on_commit_callbacks(execute=True):
        life.end_work(work=claimed, expected="running", state="ready")
    assert sent == ["jobs.prepare", "jobs.prepare"]
