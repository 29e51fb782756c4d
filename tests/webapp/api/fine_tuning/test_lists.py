"""Lists of /v1/fine_tuning/jobs: jobs, their events and measurements, their checkpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from inference.models import ServedModel
from tests.webapp.api.data_work import uploaded, work
from tests.webapp.api.fine_tuning.asking import JOBS, Ask, now, refused, row
from training import job_life, storage, tail
from training.models import Checkpoint, Job
from webapp.accounts.models import Workspace

pytestmark = pytest.mark.django_db


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
