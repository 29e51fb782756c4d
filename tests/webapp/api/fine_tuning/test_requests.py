"""What may be asked of /v1/fine_tuning/jobs, and by whom."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import ServedModel
from tests.webapp.api.conftest import key_client
from tests.webapp.api.data_work import uploaded, work
from tests.webapp.api.fine_tuning.asking import JOBS, Ask, now, refused, row
from training import job_services
from training.models import Job, SourceFile
from webapp.accounts.models import Membership, Role, User, Workspace

pytestmark = pytest.mark.django_db


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
