"""What people ask of jobs: started with sensible knobs, paused, resumed, cancelled, deleted, seen by admins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer

from inference.models import ServedModel
from tests.training.job_pages.rows import make_search
from tests.training.jobs.conftest import Start, make_version
from training import access, job_life, job_notify, job_services, services, storage
from training.models import DatasetVersion, Job
from webapp.accounts import erasure
from webapp.accounts.models import AuditEvent, User, Workspace
from webapp.core.errors import NotFound, UserError

pytestmark = pytest.mark.django_db
State, Wish = Job.State, Job.Wish
Execute = Callable[..., Any]


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value.code


def events(job: Job) -> list[str]:
    return list(job.events.values_list("code", flat=True))


def test_a_job_that_is_started_waits_and_its_task_is_sent_when_that_is_certain(
    start: Start, alice: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Execute
) -> None:
    sent: list[str] = []
    monkeypatch.setattr("celery.Celery.send_task", lambda app, name, **_: sent.append(name))
    with django_capture_on_commit_callbacks(execute=True):
        job = start(spec={"epochs": 1, "lora": {"r": 4}})
        assert not sent
    assert sent == ["training.run"]
    assert (job.state, job.data_label, job.spec) == (
        State.QUEUED, "Support, 1", {"epochs": 1, "lora": {"r": 4}},
    )  # fmt: skip
    assert events(job) == ["created"]
    assert AuditEvent.objects.filter(action="job_started", actor=alice).exists()


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"learning_rate": 5, "epochs": 0}, ("learning_rate is 5 and may be from 1e-08 to 1", "epochs is 0")),
        ({"lora": {"r": 100_000}}, ("lora.r is 100000 and may be from 1 to 256",)),
        (
            {"epochs": "many", "seed": 1.5},
            ("epochs is no such number and may be from 0.01", "seed is no such"),
        ),
        ({"epochs": True}, ("epochs",)),
        ({"lora": {"r": "big"}}, ("lora.r is no such number and may be from 1 to 256",)),
        ({"lora": {"rank": 4}}, ("lora.rank is no setting",)),
        ({"schedule": "spiral"}, ("schedule cannot be so",)),
        ({"colour": "blue"}, ("colour is no setting",)),
        ({"output": "/etc", "threads": 99}, ("output is not for you", "threads is not for you")),
        ({"max_length": 4096}, ("max_length may be at most 1024",)),
    ],
)
def test_knobs_that_cannot_be_are_all_named_with_what_they_may_be(
    start: Start, knobs: dict[str, Any], named: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        start(spec=knobs)
    assert caught.value.code == "bad_knobs"
    for part in named:
        assert part in caught.value.message
    assert not Job.objects.exists()


def test_what_does_not_fit_together_is_refused(
    start: Start, base: ServedModel, version: DatasetVersion, workspace: Workspace, elsewhere: Workspace
) -> None:
    assert code_of(lambda: start(task="translation")) == "bad_task"
    assert code_of(lambda: start(base=None)) == "base_missing"
    assert code_of(lambda: start(name=" \n ")) == "bad_name"
    assert code_of(lambda: start(workspace=elsewhere)) == "version_not_ready"
    tuned = ServedModel.objects.create(
        name="ft:tiny", workspace=workspace, base=base, path="a", digest="1", architecture="llama",
        context_length=1024, parameters=1, size_bytes=1,
    )  # fmt: skip
    assert code_of(lambda: start(base=tuned)) == "bad_base"
    DatasetVersion.objects.update(kind="preference")
    assert code_of(start) == "bad_task"
    DatasetVersion.objects.update(kind="document")
    assert code_of(lambda: start(task="scratch")) == "bad_base"
    DatasetVersion.objects.update(state=DatasetVersion.State.BUILDING)
    assert code_of(start) == "version_not_ready"


def test_what_a_version_is_for_follows_from_its_kind(version: DatasetVersion) -> None:
    found = {}
    for kind, labels in (
        ("chat", []),
        ("document", []),
        ("labelled", ["a"]),
        ("labelled", []),
        ("preference", []),
    ):
        version.kind, version.manifest = kind, {"labels": labels}
        found[kind, bool(labels)] = [str(task) for task in job_services.tasks_for(version)]
    assert found == {
        ("chat", False): ["chat"],
        ("document", False): ["documents", "scratch"],
        ("labelled", True): ["classification"],
        ("labelled", False): ["regression"],
        ("preference", False): [],
    }


def test_a_workspace_cannot_have_any_number_of_unfinished_jobs(
    start: Start, monkeypatch: pytest.MonkeyPatch, alice: User
) -> None:
    monkeypatch.setattr(job_services, "MAX_UNFINISHED", 2)
    first, _ = start(), start()
    assert code_of(start) == "too_many"
    job_services.cancel_job(job=first, user=alice)
    assert start().state == State.QUEUED


def test_a_job_that_waits_is_paused_resumed_and_cancelled_at_once(start: Start, alice: User) -> None:
    job = start()
    assert job_services.pause_job(job=job, user=alice).state == State.PAUSED
    assert job_life.claim_next() is None
    assert job_services.resume_job(job=job, user=alice).state == State.QUEUED
    assert job_services.cancel_job(job=job, user=alice).state == State.CANCELLED
    assert events(job) == ["created", "paused", "requeued", "cancelled"]
    for ask in (job_services.cancel_job, job_services.pause_job):
        assert code_of(lambda ask=ask: ask(job=job, user=alice)) == "job_finished"  # type: ignore[misc]
    assert code_of(lambda: job_services.resume_job(job=job, user=alice)) == "job_not_paused"
    wanted = {"job_started", "job_paused", "job_resumed", "job_cancelled"}
    assert set(AuditEvent.objects.values_list("action", flat=True)) == wanted


def test_what_is_wished_of_a_job_that_runs_is_for_its_worker_to_hear(start: Start, alice: User) -> None:
    start()
    job = job_life.claim_next()
    assert job is not None
    assert job_life.keep(job) == ""
    assert job_services.pause_job(job=job, user=alice).state == State.RUNNING
    assert job_life.keep(job) == Wish.PAUSE
    assert code_of(lambda: job_services.resume_job(job=job, user=alice)) == "job_pausing"
    job_services.cancel_job(job=job, user=alice)
    assert job_life.keep(job) == Wish.CANCEL
    assert code_of(lambda: job_services.pause_job(job=job, user=alice)) == "job_cancelling"


@pytest.mark.parametrize("was", ["queued", "paused", "running"])
def test_who_cancelled_by_mistake_can_resume_it_however_it_was(
    was: str, start: Start, alice: User, django_capture_on_commit_callbacks: Execute
) -> None:
    """One that runs here lost its worker, which had not heard that it is to be cancelled."""
    start()
    job = job_life.claim_next()
    assert job is not None
    saved = storage.job_folder(job) / "checkpoints" / "step-00000004"
    saved.mkdir(parents=True)
    job.checkpoints.create(step=4)
    if was != "running":
        assert job_life.end(job, State.PAUSED)
    if was == "queued":
        job_services.resume_job(job=job, user=alice)
    assert saved.exists()
    with django_capture_on_commit_callbacks(execute=True):
        job_services.cancel_job(job=job, user=alice)
        if was == "running":
            job_life.crashed(job)
    cancelled = Job.objects.get()
    assert (cancelled.state, cancelled.is_finished) == (State.CANCELLED, True)
    assert cancelled.events.latest("number").message == "It was cancelled. Step 4 is kept for a while."
    assert saved.exists()
    again = job_services.resume_job(job=cancelled, user=alice)
    assert (again.state, again.finished_at) == (State.QUEUED, None)
    assert saved.exists()


def test_a_cancelled_trial_cannot_be_resumed_and_keeps_nothing(
    start: Start, alice: User, workspace: Workspace, django_capture_on_commit_callbacks: Execute
) -> None:
    start()
    Job.objects.update(search=make_search(workspace, alice))
    job = job_life.claim_next()
    assert job is not None
    saved = storage.job_folder(job) / "checkpoints" / "step-00000004"
    saved.mkdir(parents=True)
    job.checkpoints.create(step=4)
    with django_capture_on_commit_callbacks(execute=True):
        assert job_life.end(job, State.CANCELLED)
    assert not saved.parent.exists()
    assert not job.checkpoints.get().is_kept
    assert code_of(lambda: job_services.resume_job(job=job, user=alice)) == "job_not_paused"


def test_a_job_that_failed_is_tried_again_when_its_reason_is_gone(start: Start, alice: User) -> None:
    start()
    job = job_life.claim_next()
    assert job is not None
    assert job_life.end(job, State.FAILED, error_code="disk", error_message="There is no room.")
    job = job_services.resume_job(job=job, user=alice)
    assert (job.state, job.error_code, job.finished_at) == (State.QUEUED, "", None)


def test_data_that_an_unfinished_job_needs_is_not_deleted(
    start: Start, version: DatasetVersion, alice: User
) -> None:
    job = start()
    assert code_of(lambda: services.delete_version(version=version, user=alice)) == "version_in_use"
    assert code_of(lambda: services.delete_dataset(dataset=version.dataset, user=alice)) == "version_in_use"
    job_services.cancel_job(job=job, user=alice)
    services.delete_dataset(dataset=version.dataset, user=alice)
    job.refresh_from_db()
    assert (job.version, job.data_label) == (None, "Support, 1")


def test_a_finished_job_goes_with_its_files(
    start: Start, alice: User, django_capture_on_commit_callbacks: Execute
) -> None:
    job = start()
    storage.job_folder(job).mkdir(parents=True)
    assert code_of(lambda: job_services.delete_job(job=job, user=alice)) == "job_unfinished"
    job_services.cancel_job(job=job, user=alice)
    with django_capture_on_commit_callbacks(execute=True):
        job_services.delete_job(job=job, user=alice)
    assert not Job.objects.exists()
    assert not storage.job_folder(job).exists()
    assert AuditEvent.objects.filter(action="job_deleted").exists()
    with pytest.raises(NotFound):
        job_services.cancel_job(job=job, user=alice)


def test_jobs_are_seen_by_owners_and_admins_of_their_workspace_only(
    start: Start, alice: User, bob: User, charlie: User, workspace: Workspace, elsewhere: Workspace
) -> None:
    job = start()
    assert access.get_job(alice, job.id) == job
    assert list(access.list_jobs(alice, workspace)) == [job]
    for outsider in (bob, charlie):
        with pytest.raises(NotFound):
            access.get_job(outsider, job.id)
        with pytest.raises(NotFound):
            access.list_jobs(outsider, workspace)
    assert not access.list_jobs(charlie, elsewhere)
    with pytest.raises(NotFound):
        access.get_job(alice, uuid4())


def test_a_person_who_goes_takes_the_jobs_only_they_had(
    start: Start, charlie: User, elsewhere: Workspace, django_capture_on_commit_callbacks: Execute
) -> None:
    own = start(user=charlie, workspace=elsewhere, version=make_version(elsewhere), name="diary")
    kept = start(user=charlie)
    storage.job_folder(own).mkdir(parents=True)
    with django_capture_on_commit_callbacks(execute=True):
        lines = {line.what: line for line in erasure.erase_user(user=charlie)}
    assert list(Job.objects.all()) == [kept]
    assert Job.objects.get().created_by is None
    assert not storage.job_folder(own).exists()
    line = lines["Fine-tunes only you could see, with what they learnt"]
    assert (line.count, line.note) == (1, "diary")
    assert "support" in lines["Fine-tunes you made for others too"].note


def test_open_pages_are_told_of_a_job_that_changes_when_that_is_certain(
    start: Start, alice: User, django_capture_on_commit_callbacks: Execute
) -> None:
    job = start()
    layer = get_channel_layer()

    @async_to_sync
    async def heard() -> dict[str, Any]:
        channel: str = await layer.new_channel()
        await layer.group_add(job_notify.job_group(job.id), channel)

        def change() -> None:
            with django_capture_on_commit_callbacks(execute=True):
                job_services.pause_job(job=job, user=alice)

        await sync_to_async(change)()
        message: dict[str, Any] = await layer.receive(channel)
        return message

    assert heard() == {"type": "job.changed", "job": str(job.id)}
