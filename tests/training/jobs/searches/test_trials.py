"""Each trial is a job, and rows decide how a search goes on, however often it is asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from inference import model_storage
from inference.models import ServedModel
from tests.training.jobs import scripted_trainer
from tests.training.jobs.searches.trials import Begin, State, code_of, measure, now, run, trial
from training import (
    job_life,
    job_services,
    search,
    search_services,
    search_tasks,
    services,
    storage,
    tail,
    tasks,
    trainer_process,
    training_worker,
)
from training.models import DatasetVersion, Job, Measurement, Search
from training.publishing import Publication
from training.search import advance
from webapp.accounts.models import AuditEvent, User

pytestmark = pytest.mark.django_db
Wish = Job.Wish


def test_each_trial_is_a_job_with_knobs_between_the_limits_one_after_the_other(
    begin: Begin, alice: User, published: list[Job]
) -> None:
    found = begin()
    assert not found.jobs.exists()
    for number, loss in enumerate((2.0, 1.0, 3.0), 1):
        advance(found.id)
        job = trial(found, number)
        assert found.jobs.count() == number
        assert (job.name, job.state, job.task, job.created_by) == (
            f"tone {number}",
            State.QUEUED,
            "chat",
            alice,
        )
        assert job.spec["epochs"] == 2.0
        assert 1e-5 <= job.spec["learning_rate"] <= 1e-2
        assert job.spec["lora"]["r"] in range(4, 65)
        assert job.spec["optimizer"] in ("adamw", "sgd")
        run(loss)
    assert len({str(job.spec) for job in found.jobs.all()}) == 3
    advance(found.id)
    found = now(found)
    best = trial(found, 2)
    assert found.finished_at
    assert found.result == {"best": str(best.id), "loss": 1.0, "importance": {}, "error": ""}
    assert published == [best]
    assert best.model is not None
    assert AuditEvent.objects.filter(action="search_started", actor=alice).count() == 1


def test_what_follows_is_a_function_of_the_search_and_what_was_tried(begin: Begin) -> None:
    found = begin(trials=8)
    for loss in (3.0, 1.0, 2.0, 5.0, 4.0):
        advance(found.id)
        run(loss)
    advance(found.id)
    first = trial(found, 6)
    spec = first.spec
    Job.objects.filter(id=first.id).delete()
    advance(found.id)
    assert trial(found, 6).spec == spec
    other = begin(trials=8)
    Search.objects.filter(id=found.id).update(finished_at=timezone.now())
    advance(other.id)
    assert trial(other, 1).spec != trial(found, 1).spec


def test_a_second_delivery_begins_no_second_trial_and_ends_nothing_twice(
    begin: Begin, published: list[Job]
) -> None:
    found = begin(trials=2)
    for number in (1, 2):
        advance(found.id)
        advance(found.id)
        tasks.advance_search(str(found.id))
        assert found.jobs.count() == number
        run(1.0)
    advance(found.id)
    ended = now(found).finished_at
    advance(found.id)
    assert now(found).finished_at == ended
    assert len(published) == 1
    advance(UUID(int=5))  # deleted meanwhile


def test_only_the_best_trials_weights_stay_on_the_disk(begin: Begin) -> None:
    found = begin(trials=4)
    for loss in (2.0, 1.0, 3.0):
        advance(found.id)
        run(loss)
    advance(found.id)
    run(4.0, ends=State.FAILED)

    def kept(name: str) -> list[int]:
        jobs = found.jobs.order_by("number")
        return [job.number for job in jobs if (storage.job_folder(job) / name).exists()]

    assert kept("adapter") == [2, 4]
    advance(found.id)
    assert kept("adapter") == [2]
    assert kept("checkpoints") == [2]


def test_a_worker_that_dies_as_a_search_ends_leaves_what_is_to_go_to_the_next(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = begin(trials=2)
    advance(found.id)
    run(1.0)
    advance(found.id)
    last = run(2.0)

    def dies(search_id: UUID) -> None:
        raise SystemExit

    with monkeypatch.context() as killed:
        killed.setattr(search, "_tidy", dies)
        with pytest.raises(SystemExit):
            advance(found.id)
    assert now(found).finished_at
    assert (storage.job_folder(last) / "adapter").exists()

    monkeypatch.setattr("celery.Celery.send_task", lambda app, name, args, **_: tasks.advance_search(*args))
    search_tasks.reap()
    search_tasks.reap()
    assert not (storage.job_folder(last) / "adapter").exists()
    assert (storage.job_folder(trial(found, 1)) / "adapter").exists()
    assert len(now(found).result) == 4


def test_what_was_copied_for_a_search_that_ended_meanwhile_or_could_not_be_added_is_removed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Path] = []
    usual = search.prepare

    def copied(job: Job, folder: Path) -> Publication:
        made = usual(job, folder)
        made.model.row.path = f"trained/{len(kept)}"
        kept.append(model_storage.located(made.model.row.path))
        kept[-1].mkdir(parents=True)
        return made

    def and_another_ends_it(job: Job, folder: Path) -> Publication:
        made = copied(job, folder)
        monkeypatch.setattr(search, "prepare", copied)
        advance(job.search_id)  # type: ignore[arg-type]
        return made

    monkeypatch.setattr(search, "prepare", and_another_ends_it)
    found = begin(trials=2)
    for _ in range(2):
        advance(found.id)
        run(1.0)
    advance(found.id)
    assert [folder.exists() for folder in kept] == [False, True]
    assert ServedModel.objects.get(name=f"ft:{trial(found, 1).name}").location == kept[1]

    again = begin(trials=2)
    for _ in range(2):
        advance(again.id)
        run(1.0)
    assert code_of(lambda: advance(again.id)).code == "bad_model_name"  # there is one called so
    assert not kept[2].exists()
    assert now(again).finished_at is None


def test_a_trial_that_others_were_better_than_by_then_is_stopped_early(begin: Begin) -> None:
    found = begin(trials=6)
    for loss in (1.0, 1.1, 1.2, 1.3):
        advance(found.id)
        measure(run(loss), loss + 1, loss)
    advance(found.id)
    bad = job_life.claim_next()
    assert bad is not None
    job_life.begin(bad)
    measure(bad, 2.16)  # the median is 2.15
    advance(found.id)
    assert now(bad).wish == Wish.NONE  # not clearly worse
    Measurement.objects.filter(job=bad, step=10).update(loss=2.5)
    advance(found.id)
    advance(found.id)
    assert now(bad).wish == Wish.CANCEL
    assert list(bad.events.filter(code="pruned").values_list("message", flat=True)) == [
        "It is stopped early: others were better by then."
    ]
    job_life.end(bad, State.CANCELLED)
    assert now(bad).is_pruned
    advance(found.id)
    good = trial(found, 6)
    run(0.5)
    advance(found.id)
    assert now(found).result["best"] == str(good.id)


def test_what_a_person_wants_of_a_trial_is_not_overruled(begin: Begin, alice: User) -> None:
    found = begin(trials=6)
    for loss in (1.0, 1.1, 1.2, 1.3):
        advance(found.id)
        measure(run(loss), loss)
    advance(found.id)
    job = job_life.claim_next()
    assert job is not None
    job_life.begin(job)
    measure(job, 7.0)
    job_services.pause_job(job=job, user=alice)
    advance(found.id)
    assert (now(job).wish, now(job).error_code) == (Wish.PAUSE, "")
    assert not job_life.prune(job)
    job_life.end(job, State.PAUSED)
    advance(found.id)
    assert found.jobs.count() == 5  # it waits for them
    job_services.resume_job(job=now(job), user=alice)
    run(1.0)
    advance(found.id)
    assert found.jobs.count() == 6


def test_a_trial_that_fails_or_is_cancelled_does_not_stop_the_search(begin: Begin, alice: User) -> None:
    found = begin()
    advance(found.id)
    failed = run(1.0, ends=State.FAILED, error_code="oom")
    advance(found.id)
    job_services.cancel_job(job=trial(found, 2), user=alice)
    advance(found.id)
    run(5.0)
    advance(found.id)
    assert now(found).result["best"] == str(trial(found, 3).id)
    assert code_of(lambda: job_services.resume_job(job=failed, user=alice)).code == "search_finished"


def test_knobs_that_do_not_go_together_are_a_failed_trial(begin: Begin) -> None:
    found = begin(
        spec={"lora": {"initialisation": "orthogonal"}}, space={"lora.r": {"choices": [2, 4]}}, trials=2
    )
    Search.objects.filter(id=found.id).update(
        parameters=found.parameters | {"space": {"lora.r": {"choices": [3, 5]}}}
    )
    advance(found.id)
    assert [(job.state, job.error_code) for job in found.jobs.all()] == [(State.FAILED, "bad_knobs")] * 2
    assert now(found).result["best"] is None
    assert now(found).finished_at


def test_a_search_waits_where_there_is_no_room(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    found = begin()
    monkeypatch.setattr(job_services, "MAX_UNFINISHED", 0)
    advance(found.id)
    assert (now(found).finished_at, found.jobs.count()) == (None, 0)
    monkeypatch.undo()
    advance(found.id)
    assert found.jobs.count() == 1


def test_a_cancelled_search_ends_with_what_it_has(begin: Begin, alice: User, published: list[Job]) -> None:
    found = begin()
    advance(found.id)
    run(1.0)
    advance(found.id)
    search_services.cancel_search(search=found, user=alice)
    assert trial(found, 2).state == State.CANCELLED
    advance(found.id)
    found = now(found)
    assert (found.cancel_requested, found.jobs.count(), published) == (True, 2, [trial(found, 1)])
    assert found.finished_at
    assert code_of(lambda: search_services.cancel_search(search=found, user=alice)).code == "search_finished"


def test_a_search_is_deleted_whole_and_only_when_it_has_ended(
    begin: Begin, alice: User, django_capture_on_commit_callbacks: Any
) -> None:
    found = begin(trials=2)
    advance(found.id)
    job = run(1.0)
    assert code_of(lambda: job_services.delete_job(job=job, user=alice)).code == "job_of_search"
    assert (
        code_of(lambda: search_services.delete_search(search=found, user=alice)).code == "search_unfinished"
    )
    advance(found.id)
    run(2.0)
    advance(found.id)
    folder, model = storage.job_folder(job), now(job).model
    assert folder.exists()
    with django_capture_on_commit_callbacks(execute=True):
        search_services.delete_search(search=found, user=alice)
    assert not Job.objects.exists()
    assert not folder.exists()
    assert ServedModel.objects.filter(pk=model.pk).exists()


def test_a_search_needs_its_data_also_between_two_trials(
    begin: Begin, alice: User, version: DatasetVersion
) -> None:
    found = begin()
    assert code_of(lambda: services.delete_version(version=version, user=alice)).code == "version_in_use"
    DatasetVersion.objects.filter(pk=version.pk).delete()
    advance(found.id)
    assert now(found).result["error"] == search.GONE


def test_a_worker_tells_when_a_trial_can_be_judged_and_when_it_has_ended(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    """The trial is a real job of a real worker, of a trainer without torch."""
    found = begin(trials=2)
    advance(found.id)
    program = [sys.executable, scripted_trainer.__file__, "works"]
    monkeypatch.setattr(trainer_process, "command", lambda spec, processes: [*program, str(spec)])
    monkeypatch.setattr(training_worker, "_TICK", 0.02)
    sent: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        "celery.Celery.send_task",
        lambda app, name, args=(), **how: sent.append((name, [*args, how["queue"]])),
    )
    with django_capture_on_commit_callbacks(execute=True):
        training_worker.run_next()
    job = trial(found, 1)
    assert (job.state, job.model) == (State.SUCCEEDED, None)
    ours = [args for name, args in sent if name == "search.advance"]
    assert ours == [[str(found.id), "data"]] * len(ours)
    assert len(ours) == 4  # three evaluations and the end
    sent.clear()
    search_tasks.reap()
    assert sent == [("search.advance", [str(found.id), "data"])]
    advance(found.id)
    assert found.jobs.count() == 2


def test_jobs_of_no_search_tell_nobody(
    start: Any, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any, home: Path
) -> None:
    sent: list[str] = []
    monkeypatch.setattr("celery.Celery.send_task", lambda app, name, *_, **__: sent.append(name))
    with django_capture_on_commit_callbacks(execute=True):
        job = start()
        folder = storage.job_folder(job)
        folder.mkdir(parents=True)
        claimed = job_life.claim_next()
        assert claimed is not None
        (folder / "metrics.jsonl").write_text('{"type": "validation", "step": 1, "loss": 1.0}\n')
        tail.take_in(claimed, folder)
        job_life.end(claimed, State.CANCELLED)
    assert sent == ["training.run"]
