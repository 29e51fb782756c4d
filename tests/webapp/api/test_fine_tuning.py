"""/v1/fine_tuning/jobs: from files to a queued job, told as OpenAI tells it; what is refused, and what fails a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from inference.models import ServedModel
from tests.webapp.api.conftest import key_client
from tests.webapp.api.data_work import ORDERS, chat, jsonl, make_base, upload, uploaded, work
from training import data_worker, job_files, job_life, job_services, storage, tail, tasks
from training import work as life
from training.datasets.frozen import read_split
from training.models import Checkpoint, Dataset, DatasetVersion, DataWork, Job, SourceFile
from webapp.accounts.models import Membership, Role, User, Workspace

pytestmark = pytest.mark.django_db
JOBS = "/v1/fine_tuning/jobs"
Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def home(settings: Settings, tmp_path: Path) -> Path:
    settings.FLYWHEEL_HOME = tmp_path
    return tmp_path


@pytest.fixture
def base(db: None) -> ServedModel:
    return make_base()


@pytest.fixture
def ask(alices: Client, base: ServedModel) -> Ask:
    """Asks for a job, and answers what is answered."""

    def ask(client: Client = alices, **asked: Any) -> Any:
        return client.post(JOBS, {"model": "tiny"} | asked, content_type="application/json")

    return ask


def refused(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def now(client: Client, job: str) -> Any:
    return client.get(f"{JOBS}/{job}").json()


def messages(client: Client, job: str) -> list[str]:
    """The oldest first."""
    found = client.get(f"{JOBS}/{job}/events?limit=1000").json()["data"]
    return [event["data"].get("event", event["type"]) for event in found[::-1]]


def row(job: str) -> Job:
    return Job.objects.get(pk=job.removeprefix("ftjob-"))


def splits(job: str) -> dict[str, int]:
    folder = storage.version_folder(row(job).version)  # type: ignore[arg-type]
    return {split: len(list(read_split(folder, split))) for split in ("train", "validation", "test")}


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


# --- What is asked ---------------------------------------------------------------------------------------------
def test_hyperparameters_become_the_trainers_knobs(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    knobs = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    for where in (
        {"hyperparameters": knobs},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": knobs}}},
    ):
        body = ask(training_file=file, seed=7, flywheel={"max_steps": 8, "lora": {"r": 4}}, **where).json()
        assert body["hyperparameters"] == {
            "n_epochs": 2,
            "batch_size": "auto",
            "learning_rate_multiplier": 0.5,
        }
        assert body["seed"] == 7
        assert row(body["id"]).spec == {
            "epochs": 2.0, "learning_rate_multiplier": 0.5, "seed": 7, "max_steps": 8, "lora": {"r": 4},
        }  # fmt: skip
    first, second = (ask(training_file=file).json()["seed"] for _ in range(2))
    assert first != second


REFUSED: list[tuple[dict[str, Any], tuple[int, str, str | None]]] = [
    ({"model": "gpt-9"}, (404, "model_not_found", "model")),
    ({"model": "own"}, (400, "bad_base", "model")),
    ({"training_file": "file-nonsense"}, (404, "file_not_found", "training_file")),
    ({"training_file": f"version-{'0' * 32}"}, (404, "file_not_found", "training_file")),
    ({"validation_file": f"file-{'0' * 32}"}, (404, "file_not_found", "validation_file")),
    ({"method": {"type": "dpo"}}, (400, "unsupported_parameter", "method.type")),
    ({"method": {"type": "reinforcement"}}, (400, "unsupported_parameter", "method.type")),
    ({"method": {"type": "supervised", "dpo": {}}}, (400, "unsupported_parameter", "method.dpo")),
    ({"method": {"type": "magic"}}, (400, "invalid_value", "method.type")),
    ({"integrations": [{"type": "wandb"}]}, (400, "unsupported_parameter", "integrations")),
    ({"colour": "blue"}, (400, "unsupported_parameter", "colour")),
    ({"hyperparameters": {"beta": 1}}, (400, "unsupported_parameter", "hyperparameters.beta")),
    ({"hyperparameters": {"n_epochs": 0}}, (400, "invalid_value", "hyperparameters.n_epochs")),
    ({"hyperparameters": {"batch_size": True}}, (400, "invalid_value", "hyperparameters.batch_size")),
    (
        {"hyperparameters": {}, "method": {"type": "supervised", "supervised": {"hyperparameters": {}}}},
        (400, "invalid_value", "hyperparameters"),
    ),
    (
        {"hyperparameters": {"n_epochs": 1}, "flywheel": {"epochs": 2}},
        (400, "invalid_value", "flywheel.epochs"),
    ),
    ({"seed": 1, "flywheel": {"seed": 2}}, (400, "invalid_value", "flywheel.seed")),
    ({"seed": -1}, (400, "invalid_value", "seed")),
    ({"suffix": "x" * 65}, (400, "invalid_value", "suffix")),
    ({"suffix": "\u200b"}, (400, "bad_name", "suffix")),
    ({"metadata": {"k" * 65: "v"}}, (400, "invalid_value", f"metadata.{'k' * 65}")),
    ({"metadata": {str(n): "v" for n in range(17)}}, (400, "invalid_value", "metadata")),
    ({"flywheel": {"colour": "blue"}}, (400, "bad_knobs", "flywheel")),
    ({"flywheel": {"learning_rate": 5}}, (400, "bad_knobs", "flywheel")),
    ({"flywheel": {"lora": {"r": "big"}}}, (400, "bad_knobs", "flywheel")),
    ({"flywheel": {"output": "/etc"}}, (400, "bad_knobs", "flywheel")),
    ({"flywheel": {"max_length": 4096}}, (400, "bad_knobs", "flywheel")),
    ({"flywheel": {"task": "magic"}}, (400, "invalid_value", "flywheel.task")),
    ({"flywheel": {"recipe": {"colour": 1}}}, (400, "invalid_value", "flywheel.recipe")),
    (
        {"flywheel": {"recipe": {"split": {"validation": 2}}}},
        (400, "invalid_value", "flywheel.recipe.split.validation"),
    ),
    ({"training_file": None}, (400, "invalid_type", "training_file")),
]  # fmt: skip


def test_what_cannot_be_asked_is_refused_by_name_and_no_job_is_made(
    alices: Client, ask: Ask, base: ServedModel, workspace: Workspace
) -> None:
    file = uploaded(alices)
    ServedModel.objects.create(
        name="own", path="x", digest="1", architecture="llama", context_length=100, parameters=1, size_bytes=1,
        workspace=workspace, base=base,
    )  # fmt: skip
    found = [(asked, refused(ask(**{"training_file": file} | asked))) for asked, _expected in REFUSED]
    assert found == REFUSED
    assert refused(ask()) == (400, "missing_required_parameter", "training_file")
    assert not Job.objects.exists()


def test_a_file_among_several_is_refused_since_a_version_is_of_them_all(
    alices: Client, ask: Ask, alice: User
) -> None:
    file = uploaded(alices)
    first = SourceFile.objects.get()
    SourceFile.objects.create(
        dataset=first.dataset, name="second", size=1, received=1, state="ready", received_at=timezone.now()
    )
    assert refused(ask(training_file=file)) == (400, "file_of_several", "training_file")


def test_a_workspace_has_no_more_than_so_many_unfinished_jobs(
    alices: Client, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_services, "MAX_UNFINISHED", 1)
    file = uploaded(alices)
    assert ask(training_file=file).status_code == 200
    assert refused(ask(training_file=file))[:2] == (409, "too_many")


# --- Lists -----------------------------------------------------------------------------------------------------
def test_jobs_are_listed_newest_first_in_pages_and_by_metadata(alices: Client, ask: Ask) -> None:
    file = uploaded(alices)
    made = [
        ask(training_file=file, metadata=metadata).json()["id"]
        for metadata in ({"team": "a", "k__v": "1"}, {"team": "b", "7": "c"}, {}, {"team": ""})
    ][::-1]

    def ids(query: str = "") -> tuple[list[str], bool]:
        body = alices.get(f"{JOBS}?{query}").json()
        return [job["id"] for job in body["data"]], body["has_more"]

    assert ids() == (made, False)
    assert ids("limit=3") == (made[:3], True)
    assert ids(f"after={made[2]}") == (made[3:], False)
    assert ids("metadata[team]=a") == ([made[3]], False)
    assert ids("metadata[k__v]=1&metadata[team]=a") == ([made[3]], False)
    assert ids("metadata[team]=") == ([made[0]], False)
    assert ids("metadata[7]=c") == ([made[2]], False)
    assert ids("metadata=null") == ([made[1]], False)
    assert refused(alices.get(f"{JOBS}?after=ftjob-0")) == (400, "invalid_value", "after")
    assert refused(alices.get(f"{JOBS}?metadata=x")) == (400, "invalid_value", "metadata")
    assert refused(alices.get(f"{JOBS}?limit=0"))[0] == 400


def test_events_and_measurements_are_one_log_in_pages(alices: Client, ask: Ask) -> None:
    job = ask(training_file=uploaded(alices)).json()["id"]
    work()
    learn(row(job))
    body = alices.get(f"{JOBS}/{job}/events?limit=1000").json()
    assert (body["object"], body["has_more"]) == ("list", False)
    whole = [event["id"] for event in body["data"]]
    assert len(set(whole)) == len(whole)
    step = next(event for event in body["data"] if event["type"] == "metrics")
    assert (step["object"], step["level"]) == ("fine_tuning.job.event", "info")
    assert step["message"] == "Step 4/4: validation loss=1.1000"
    assert step["data"] == {"step": 4, "total_steps": 4, "valid_loss": 1.1, "full_valid_loss": 1.1}
    paged: list[str] = []
    after = ""
    while True:
        page = alices.get(f"{JOBS}/{job}/events?limit=3{after}").json()
        paged += [event["id"] for event in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={paged[-1]}"
    assert paged == whole
    assert refused(alices.get(f"{JOBS}/{job}/events?after=ftevent-0")) == (400, "invalid_value", "after")


def learn(job: Job) -> None:
    """As a worker takes in what a trainer writes, with a checkpoint each second step."""
    claimed = job_life.claim_next()
    assert claimed is not None
    assert claimed.id == job.id
    assert job_life.begin(claimed)
    folder = storage.job_folder(claimed)
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"state": "training", "steps": 4, "best_step": 4}))
    lines: list[dict[str, Any]] = [
        {"type": "chosen", "knob": "batch_size", "value": 8, "why": "30 examples."},
        {"type": "validation", "step": 0, "loss": 3.0},
    ]
    for step in range(1, 5):
        lines.append(
            {"type": "step", "step": step, "loss": 2.0 / step, "epoch": step / 4, "trained_tokens": 10}
        )
        if step % 2 == 0:
            lines += [
                {"type": "validation", "step": step, "loss": 1.5 - step / 10},
                {"type": "checkpoint", "step": step},
            ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tail.drain(claimed, folder)


def test_checkpoints_have_their_losses_and_the_name_that_answers(
    alices: Client, ask: Ask, workspace: Workspace, base: ServedModel
) -> None:
    job = ask(training_file=uploaded(alices)).json()["id"]
    work()
    learn(row(job))
    body = alices.get(f"{JOBS}/{job}/checkpoints").json()
    assert [found["step_number"] for found in body["data"]] == [4, 2]
    assert body["data"][0]["metrics"] == {
        "step": 4, "train_loss": 0.5, "valid_loss": 1.1, "full_valid_loss": 1.1, "train_mean_token_accuracy": None,
        "valid_mean_token_accuracy": None, "full_valid_mean_token_accuracy": None,
    }  # fmt: skip
    assert body["data"][0]["fine_tuned_model_checkpoint"] is None
    first = alices.get(f"{JOBS}/{job}/checkpoints?limit=1").json()
    assert (first["has_more"], first["last_id"]) == (True, body["data"][0]["id"])
    rest = alices.get(f"{JOBS}/{job}/checkpoints?after={first['last_id']}").json()
    assert (rest["data"], rest["has_more"]) == (body["data"][1:], False)
    assert refused(alices.get(f"{JOBS}/{job}/checkpoints?after=x")) == (400, "invalid_value", "after")

    models = [
        ServedModel.objects.create(
            name=f"ft:tiny:acme:orders:1{end}", path=end, digest="1", architecture="llama", context_length=100,
            parameters=1, size_bytes=1, workspace=workspace, base=base,
        )
        for end in ("", ":ckpt-step-2")
    ]  # fmt: skip
    Checkpoint.objects.filter(step=2).update(model=models[1])
    Job.objects.update(model=models[0], state="succeeded", best_step=4)
    named = [
        found["fine_tuned_model_checkpoint"]
        for found in alices.get(f"{JOBS}/{job}/checkpoints").json()["data"]
    ]
    assert named == ["ft:tiny:acme:orders:1", "ft:tiny:acme:orders:1:ckpt-step-2"]


def test_what_auto_came_to_and_how_long_it_takes_is_told(alices: Client, ask: Ask) -> None:
    job = ask(training_file=uploaded(alices)).json()["id"]
    work()
    learn(row(job))
    Job.objects.update(eta=60.0)
    body = now(alices, job)
    assert body["hyperparameters"]["batch_size"] == 8
    assert body["estimated_finish"] > body["created_at"] + 50
    assert body["trained_tokens"] is None
    assert (body["flywheel"]["step"], body["flywheel"]["total_steps"]) == (4, 4)


# --- Who may ask -----------------------------------------------------------------------------------------------
def test_outsiders_members_and_keys_of_other_scopes_have_no_jobs(
    alices: Client,
    bobs: Client,
    charlies: Client,
    client: Client,
    ask: Ask,
    alice: User,
    workspace: Workspace,
) -> None:
    file = uploaded(alices)
    job = ask(training_file=file).json()["id"]
    work()
    version = now(alices, job)["flywheel"]["version"]
    files_only = key_client(alice, workspace, "files")
    asked = [
        ("get", f"{JOBS}/{job}"), ("get", f"{JOBS}/{job}/events"), ("get", f"{JOBS}/{job}/checkpoints"),
        *(("post", f"{JOBS}/{job}/{verb}") for verb in ("cancel", "pause", "resume")),
    ]  # fmt: skip
    for method, path in asked:
        assert refused(getattr(charlies, method)(path)) == (404, "not_found", None)
        assert getattr(bobs, method)(path).status_code == 403
        assert refused(getattr(files_only, method)(path))[:2] == (403, "missing_scope")
        assert getattr(client, method)(path).status_code == 401
    assert charlies.get(JOBS).json()["data"] == []
    for who, status in ((bobs, 403), (files_only, 403), (client, 401)):
        assert who.get(JOBS).status_code == status
        assert ask(who, training_file=file).status_code == status
    assert refused(ask(charlies, training_file=file)) == (404, "file_not_found", "training_file")
    assert refused(ask(charlies, training_file=version)) == (404, "file_not_found", "training_file")
    own = uploaded(charlies)
    assert refused(ask(charlies, training_file=own, validation_file=file)) == (
        404,
        "file_not_found",
        "validation_file",
    )
    assert now(alices, job)["status"] == "queued"


def test_a_key_sees_no_job_of_its_persons_other_workspaces(
    alices: Client, alice: User, elsewhere: Workspace, ask: Ask
) -> None:
    job = ask(training_file=uploaded(alices)).json()["id"]
    Membership.objects.create(workspace=elsewhere, user=alice, role=Role.OWNER)
    there = key_client(alice, elsewhere)
    assert refused(there.get(f"{JOBS}/{job}")) == (404, "not_found", None)
    assert there.get(JOBS).json()["data"] == []
    assert refused(there.post(f"{JOBS}/{job}/cancel")) == (404, "not_found", None)


def test_a_job_sent_twice_with_one_key_is_one_job(alices: Client, ask: Ask) -> None:
    asked = {"model": "tiny", "training_file": uploaded(alices)}
    twice = [
        alices.post(JOBS, asked, content_type="application/json", headers={"Idempotency-Key": "k"}).json()[
            "id"
        ]
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert Job.objects.count() == 1
