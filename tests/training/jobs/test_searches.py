"""Searches and cross-validations: each trial is a job, and rows decide how it goes on, however often it is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from inference import model_storage
from inference.model_services import Prepared
from inference.models import ServedModel
from tests.training.job_pages.rows import classified
from tests.training.jobs import scripted_trainer
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
from training.job_request import JobRequest
from training.models import DatasetVersion, Job, Measurement, Search
from training.publishing import Publication
from training.search import advance
from training.trainer.spec import MODULES
from webapp.accounts.models import AuditEvent, User
from webapp.core.errors import UserError

pytestmark = pytest.mark.django_db
State, Wish = Job.State, Job.Wish
SPACE = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "lora.r": {"low": 4, "high": 64},
    "optimizer": {"choices": ["adamw", "sgd"]},
}
Begin = Callable[..., Search]


@pytest.fixture
def begin(base: ServedModel, version: DatasetVersion, alice: User) -> Begin:
    def begin(**changes: Any) -> Search:
        asked: dict[str, Any] = {
            "user": alice, "workspace": version.dataset.workspace, "version": version, "base": base, "task": "chat",
            "name": "tone", "spec": {"epochs": 2.0},
        }  # fmt: skip
        searched = {name: changes.pop(name, usual) for name, usual in (("space", SPACE), ("trials", 3))}
        return search_services.start_search(asked=JobRequest(**asked | changes), **searched)  # type: ignore[arg-type]

    return begin


@pytest.fixture
def folds(base: ServedModel, version: DatasetVersion, alice: User) -> Search:
    version.kind, version.manifest = "labelled", {"labels": ["ham", "spam"]}
    version.save()
    asked = JobRequest(
        user=alice, workspace=version.dataset.workspace, version=version, base=base, task="classification",
        name="sorted", spec={},
    )  # fmt: skip
    return search_services.start_folds(asked=asked, folds=3)


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs whose model was published, in place of copying what real trainers save."""
    jobs: list[Job] = []

    around = len(connection.savepoint_ids)  # a test is a transaction itself

    def prepare(job: Job, folder: Path) -> Publication:
        assert (folder / "adapter").is_dir()
        assert len(connection.savepoint_ids) == around  # nobody waits for the disk
        jobs.append(job)
        row = ServedModel(
            name=f"ft:{job.name}", path="x", digest=job.id.hex * 2, architecture="llama", context_length=64,
            parameters=1, size_bytes=1, base=job.base, workspace=job.workspace,
        )  # fmt: skip
        return Publication(Prepared(row), [])

    monkeypatch.setattr(search, "prepare", prepare)
    return jobs


def trial(found: Search, number: int) -> Job:
    return found.jobs.get(number=number)


def run(loss: float, *, ends: str = State.SUCCEEDED, **fields: Any) -> Job:
    """What a worker does with the job whose turn it is, without a trainer."""
    job = job_life.claim_next()
    assert job is not None
    assert job_life.begin(job)
    for name in ("adapter", "checkpoints"):
        (storage.job_folder(job) / name).mkdir(parents=True)
    assert job_life.end(job, ends, best_validation_loss=loss, **fields)
    return job


def measure(job: Job, *losses: float) -> None:
    """The base model's, and those of the evaluations so far."""
    Measurement.objects.bulk_create(
        Measurement(job=job, kind="validation", step=10 * n, loss=loss)
        for n, loss in enumerate((9.0, *losses))
    )


def now(row: Any) -> Any:
    return type(row).objects.get(pk=row.pk)


def code_of(call: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value


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


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "1 to 8 settings"),
        ({"learning_rate": {"low": 1e-9, "high": 7}}, "learning_rate is 1e-09 and may be from 1e-08 to 1"),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "learning_rate goes from 0.1 to 0.01"),
        ({"learning_rate": {"low": "a", "high": None}}, "learning_rate needs two numbers"),
        ({"learning_rate": {"low": float("nan"), "high": 1}}, "learning_rate needs two numbers"),
        ({"learning_rate": {"low": True, "high": 1}}, "learning_rate needs two numbers"),
        ({"batch_size": {"low": 1.5, "high": 4}}, "batch_size is a whole number"),
        ({"weight_decay": {"low": 0, "high": 1, "log": True}}, "weight_decay begins at 0"),
        ({"optimizer": {"low": 1, "high": 2}}, "optimizer has choices"),
        ({"optimizer": {"choices": ["adamw", "rm -rf /"]}}, "optimizer cannot be so"),
        ({"optimizer": {"choices": ["adamw"]}}, "optimizer needs 2 to 20"),
        ({"optimizer": {"choices": [["adamw"], {}]}}, "optimizer needs 2 to 20"),
        ({"base": {"choices": ["/etc/passwd", "/"]}}, "base cannot be searched for: the site sets it"),
        ({"output": {"choices": ["/etc", "/"]}}, "output cannot be searched for: the site sets it"),
        (
            {"vocabulary": {"low": 300, "high": 400}},
            "vocabulary cannot be searched for: it changes which tokens",
        ),
        (
            {"validation_length": {"low": 8, "high": 64}},
            "validation_length cannot be searched for: the site sets it",
        ),
        (
            {"keep_checkpoints": {"low": 1, "high": 4}},
            "keep_checkpoints cannot be searched for: it changes what is kept",
        ),
        (
            {"sample_tokens": {"low": 1, "high": 4}},
            "sample_tokens cannot be searched for: it changes how long",
        ),
        ({"fold": {"low": 1, "high": 4}}, "fold cannot be searched for: cross-validation varies it"),
        (
            {"method": {"choices": ["lora", "full"]}},
            "method cannot be searched for: it decides which other settings",
        ),
        ({"lora": {"choices": [1, 2]}}, "lora cannot be searched for: it is a group of settings"),
        ({"sed": {"low": 1, "high": 4}}, "sed cannot be searched for: there is no such setting"),
        ({"lora.targets": {"choices": ["all", "q_proj"]}}, "lora.targets is chosen among all, attention"),
        ({"lora.targets": {"low": 1, "high": 2}}, "lora.targets has choices"),
        ({"warmup": 3}, "warmup has neither"),
        ({"warmup": {"low": 0}}, "warmup has neither"),
        ({"dropout": {"low": 0, "high": 0.5}}, "dropout is for where all weights are learnt"),
        ({"l1": {"low": 3, "high": 4}, "size": {"low": 1, "high": 99}}, "size is 99 and may be from 1 to 32"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(space: Any, said: str, begin: Begin) -> None:
    refused = code_of(lambda: begin(space=space))
    assert refused.code == "bad_space"
    assert said in refused.message
    assert not Search.objects.exists()


def test_the_layers_of_an_adapter_are_searched_by_the_names_of_sets_and_a_seed_between_limits(
    begin: Begin,
) -> None:
    space = {"lora.targets": {"choices": ["all", "queries_values"]}, "seed": {"low": 0, "high": 99}}
    found = begin(space=space, trials=6)
    for loss in range(6):
        advance(found.id)
        run(float(loss))
    advance(found.id)
    specs = [job.spec for job in found.jobs.all()]
    assert {tuple(spec["lora"]["targets"]) for spec in specs} == {MODULES, ("q_proj", "v_proj")}
    assert len({spec["seed"] for spec in specs}) > 1
    # What the sampler learns of is read back from the jobs.
    assert now(found).result["best"] == str(trial(found, 1).id)


@pytest.mark.parametrize(
    ("kind", "task", "judged"),
    [("chat", "chat", 64), ("document", "scratch", 64), ("labelled", "classification", "auto")],
)
def test_how_much_is_read_is_searched_and_of_what_is_written_all_trials_are_judged_by_the_same(
    kind: str, task: str, judged: Any, begin: Begin, version: DatasetVersion, base: ServedModel
) -> None:
    version.kind, version.manifest = kind, {"labels": ["ham", "spam"]}
    version.save()
    begun_with = None if task == "scratch" else base
    found = begin(task=task, base=begun_with, space={"max_length": {"low": 8, "high": 64}}, spec={})
    advance(found.id)
    assert {*trial(found, 1).spec} == {"max_length"}
    assert 8 <= trial(found, 1).spec["max_length"] <= 64
    job = job_life.claim_next()
    assert job is not None
    storage.job_folder(job).mkdir(parents=True)
    written = training_worker.Supervision(job)._write_spec(storage.version_folder(version))
    assert json.loads(written.read_bytes())["validation_length"] == judged


def test_trials_that_are_judged_by_as_much_as_the_longest_reads_say_how_much_that_is(
    begin: Begin, version: DatasetVersion
) -> None:
    unsaid: dict[str, Any] = {"max_length": {"choices": ["auto", 64]}}
    refused = code_of(lambda: begin(space=unsaid))
    assert (refused.code, "the choices of max_length are numbers" in refused.message) == ("bad_space", True)
    # Of a text with a label there is one loss, however much is read of it.
    version.kind, version.manifest = "labelled", {"labels": ["ham", "spam"]}
    version.save()
    assert begin(space=unsaid, task="classification")


def test_no_trial_is_of_longer_examples_than_its_model_reads(begin: Begin, version: DatasetVersion) -> None:
    version.kind = "document"
    version.save()
    longer: dict[str, Any] = {"max_length": {"choices": [64, 1025]}}
    refused = code_of(lambda: begin(space=longer, task="documents"))
    assert (refused.code, "at most 1024" in refused.message) == ("bad_knobs", True)
    sizes = {"size": {"low": 4, "high": 8}}
    refused = code_of(lambda: begin(space=longer | sizes, task="scratch", base=None))
    assert (refused.code, "at most 1024" in refused.message) == ("bad_knobs", True)
    sizes = {"size": {"low": 5, "high": 8}}
    assert begin(space=longer | sizes, task="scratch", base=None)


def lived(found: Search, *trials: tuple[dict[str, Any], float, float]) -> None:
    """Each with these knobs, its loss, and the seconds that its ten steps took."""
    for knobs, loss, seconds in trials:
        advance(found.id)
        job = found.jobs.get(state=State.QUEUED)
        Job.objects.filter(id=job.id).update(spec=job.spec | knobs)
        measure(run(loss, seconds=seconds, step=10), loss)
    advance(found.id)


BOTH = {"choices": [True, False]}


def test_of_trials_that_learn_the_same_the_fastest_is_published(begin: Begin, published: list[Job]) -> None:
    space = {"optimizer": {"choices": ["adamw", "sgd"]}, "packing": BOTH, "gradient_checkpointing": BOTH}
    found = begin(space=space, trials=4)
    sgd = {"optimizer": "sgd"}
    lived(
        found,
        ({"optimizer": "adamw", "packing": True, "gradient_checkpointing": False}, 2.0, 1.0),
        (sgd | {"packing": True, "gradient_checkpointing": True}, 1.00001, 9.0),
        (sgd | {"packing": False, "gradient_checkpointing": True}, 1.0, 20.0),
        (sgd | {"packing": True, "gradient_checkpointing": False}, 1.00002, 5.0),
    )
    assert published == [trial(found, 4)]
    assert now(found).result["loss"] == 1.00002


def test_a_trial_whose_weights_are_gone_is_not_the_best_again(begin: Begin, published: list[Job]) -> None:
    found = begin(space={"optimizer": {"choices": ["adamw", "sgd"]}, "packing": BOTH}, trials=3)
    lived(
        found,
        ({"optimizer": "sgd", "packing": True}, 1.00002, 5.0),
        ({"optimizer": "adamw", "packing": True}, 1.00001, 9.0),
        ({"optimizer": "sgd", "packing": False}, 1.0, 20.0),
    )
    assert published == [trial(found, 3)]


def test_a_search_of_nothing_but_how_steps_are_computed_is_by_the_time_they_take(
    begin: Begin, published: list[Job]
) -> None:
    found = begin(space={"packing": BOTH, "gradient_checkpointing": BOTH}, trials=9)
    fast = ({"packing": True, "gradient_checkpointing": False}, 1.00001, 30.0)
    lowest = ({"packing": False, "gradient_checkpointing": True}, 1.0, 60.0)
    usual = ({"packing": False, "gradient_checkpointing": False}, 1.00002, 60.0)
    lived(found, *[usual] * 6, fast, lowest)
    slow = job_life.claim_next()
    assert slow is not None
    job_life.begin(slow)
    for seconds, wish in ((3.0, Wish.NONE), (9.0, Wish.CANCEL)):
        Job.objects.filter(id=slow.id).update(step=1, seconds=seconds)
        advance(found.id)
        assert now(slow).wish == Wish.NONE  # before it has been evaluated
        measure(slow, 2.0)
        advance(found.id)
        assert now(slow).wish == wish
        Measurement.objects.filter(job=slow).delete()
    job_life.end(slow, State.CANCELLED)
    advance(found.id)
    assert published == [trial(found, 7)]
    importance = now(found).result["importance"]
    assert importance["packing"] > importance["gradient_checkpointing"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"trials": 1}, "bad_trials"),
        ({"trials": 101}, "bad_trials"),
        ({"name": " "}, "bad_name"),
        ({"task": "documents"}, "bad_task"),
        ({"base": None}, "base_missing"),
        ({"spec": {"epochs": 0}}, "bad_knobs"),
    ],
)
def test_what_no_job_could_be_is_no_search(changes: Any, code: str, begin: Begin) -> None:
    assert code_of(lambda: begin(**changes)).code == code


def test_a_search_needs_something_to_compare_by_and_is_not_begun_without_end(
    begin: Begin, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_services, "MAX_UNFINISHED", 1)
    begin()
    assert code_of(begin).code == "too_many"
    version.validation = 0
    assert code_of(lambda: begin(version=version)).code == "nothing_to_compare"


def test_folds_are_jobs_and_summarised_when_all_have_ended(folds: Search, published: list[Job]) -> None:
    assert [job.spec for job in folds.jobs.order_by("number")] == [
        {"folds": 3, "fold": number} for number in (1, 2, 3)
    ]
    for accuracy in (0.8, 0.9):
        advance(folds.id)
        run(1.0, evaluation=classified("binary") | {"accuracy": accuracy, "examples": 10})
    advance(folds.id)
    assert now(folds).finished_at is None
    run(1.0, ends=State.FAILED, error_code="oom")
    advance(folds.id)
    result = now(folds).result
    assert (result["folds"], result["examples"], result["failed"]) == (2, 20, [3])
    assert result["figures"]["accuracy"]["mean"] == pytest.approx(0.85)
    assert result["figures"]["accuracy"]["std"] == pytest.approx(0.0707, abs=1e-4)
    assert not published
    assert not any((storage.job_folder(job) / "adapter").exists() for job in folds.jobs.all())


def test_cross_validation_is_for_labels_and_numbers(folds: Search, alice: User) -> None:
    job = trial(folds, 1)
    asked: dict[str, Any] = {
        "user": alice, "workspace": job.workspace, "version": job.version, "base": job.base, "name": "x", "spec": {},
    }  # fmt: skip
    for task, many in (("chat", 3), ("classification", 1), ("classification", 21)):
        request = JobRequest(**asked, task=task)
        refused = code_of(lambda: search_services.start_folds(asked=request, folds=many))  # noqa: B023
        assert refused.code == "bad_folds"


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
