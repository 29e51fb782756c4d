"""The life of data work: one worker at a time, heard of while it lives, handed over when it dies, ended by a cancel."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.apps import apps
from django.test import Client
from django.utils import timezone

from tests.synced import note_synced
from training import data_worker, job_life, services, storage, tasks, uploads, work
from training.datasets.frozen import SPLITS, Manifest, SplitInfo, content_hash
from training.datasets.problems import DataError
from training.datasets.progress import Cancelled
from training.datasets.recipe import Recipe
from training.datasets.report import Report
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from webapp.accounts.models import User, Workspace
from webapp.core.errors import UserError
from webapp.ops import processes

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]
Doing = Callable[[DataWork, data_worker.Keeper], bool]
State = DataWork.State


@pytest.fixture
def waiting(dataset: Dataset, source: SourceFile) -> DataWork:
    return services.start_report(dataset=dataset)


@pytest.fixture
def does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Doing], None]:
    """What a worker does for a report, in place of reading files."""

    def put(doing: Doing) -> None:
        monkeypatch.setitem(data_worker._DOING, DataWork.Kind.REPORT, doing)

    return put


def ends(work_: DataWork, progress: data_worker.Keeper) -> bool:
    return work.end_work(work=work_, expected=State.RUNNING, state=State.READY, result={})


def silent(work_: DataWork) -> None:
    """Its worker was last heard of too long ago."""
    DataWork.objects.filter(pk=work_.pk).update(heartbeat_at=timezone.now() - work.LEASE * 1.1)


def test_a_second_delivery_of_a_task_is_a_no_op(waiting: DataWork, does: Callable[[Doing], None]) -> None:
    runs: list[int] = []

    def once(work_: DataWork, progress: data_worker.Keeper) -> bool:
        runs.append(work_.attempt)
        tasks.run(str(work_.pk))  # delivered again while it runs
        return ends(work_, progress)

    does(once)
    tasks.run(str(waiting.pk))
    tasks.run(str(waiting.pk))
    assert runs == [1]


def test_two_things_are_never_done_with_a_dataset_at_once(
    waiting: DataWork, dataset: Dataset, alice: User
) -> None:
    for begin in (
        lambda: services.start_report(dataset=dataset),
        lambda: services.start_preview(dataset=dataset, recipe=Recipe()),
        lambda: services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice),
        lambda: work.begin_work(dataset=dataset, kind="report", parameters={}),
    ):
        with pytest.raises(UserError) as caught:
            begin()
        assert caught.value.code == "dataset_busy"


def test_reports_wait_for_workers_of_data_and_never_behind_a_fine_tune(
    dataset: Dataset,
    source: SourceFile,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    sent: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        "celery.Celery.send_task",
        lambda app, name, args=(), **how: sent.append((name, [*args, how["queue"]])),
    )
    with django_capture_on_commit_callbacks(execute=True):
        report = services.start_report(dataset=dataset)
    DataWork.objects.update(sent_at=timezone.now() - work._LOST_AFTER * 1.1)
    tasks.reap()
    assert sent == [("data.run", [str(report.pk), "data"])] * 2
    # Nor does it wait there where nobody says a queue.
    routed = current_app.amqp.router.route({}, "data.run")["queue"].name
    assert routed == processes.QUEUES["data"] == "data" != processes.QUEUES["training"] == job_life.QUEUE


def test_work_of_a_silent_worker_goes_to_another_and_the_first_changes_nothing_more(
    waiting: DataWork, does: Callable[[Doing], None]
) -> None:
    first = work.claim_work(work_id=waiting.pk)
    assert first is not None
    silent(first)
    tasks.reap()
    waiting.refresh_from_db()
    assert (waiting.state, waiting.crashes) == (State.QUEUED, 1)
    does(ends)
    tasks.run(str(waiting.pk))
    waiting.refresh_from_db()
    assert (waiting.state, waiting.attempt) == (State.READY, 2)
    assert not work.keep_work(work=first, stage="reading", done=1, total=2)
    assert not work.end_work(work=first, expected=State.RUNNING, state=State.FAILED)


def test_a_worker_that_was_thought_dead_cannot_end_what_another_does(waiting: DataWork) -> None:
    first = work.claim_work(work_id=waiting.pk)
    assert first is not None
    silent(first)
    tasks.reap()
    second = work.claim_work(work_id=waiting.pk)
    assert second is not None
    assert not work.end_work(
        work=first, expected=State.RUNNING, state=State.READY, result={"of": "the first"}
    )
    assert work.end_work(work=second, expected=State.RUNNING, state=State.READY, result={"of": "the second"})
    waiting.refresh_from_db()
    assert waiting.result == {"of": "the second"}


def test_a_version_that_another_worker_is_making_is_not_put_in_its_place(
    report: DataWork, dataset: Dataset, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice)
    assert version.work is not None

    def taken_over(folder: Path, recipe: Recipe, out: Path, **_: object) -> Manifest:
        DataWork.objects.filter(pk=version.work_id).update(attempt=2)
        out.mkdir(parents=True)
        splits = {name: SplitInfo(1, "0" * 64) for name in SPLITS}
        return Manifest(1, "labelled", content_hash("labelled", splits), "", recipe, splits, [])

    monkeypatch.setattr("training.datasets.clean.freeze", taken_over)
    tasks.run(str(version.work_id))
    version.refresh_from_db()
    assert version.state == DatasetVersion.State.BUILDING
    assert not storage.version_folder(version).exists()


def test_work_that_leaves_no_room_on_the_disk_ends_before_the_database_has_none(
    waiting: DataWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "is_short", lambda: True)
    tasks.run(str(waiting.pk))
    waiting.refresh_from_db()
    assert (waiting.state, waiting.error_code) == (State.FAILED, "disk_full")
    assert not storage.work_folder(waiting).exists()


def test_a_report_says_that_it_is_of_the_files_that_it_read_and_not_of_those_it_was_asked_for(
    waiting: DataWork, dataset: Dataset, source: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_worker, "_LOOK_SECONDS", 3600.0)
    later = SourceFile.objects.get(pk=source.pk)
    later.pk, later.name, later.sha256 = uuid.uuid4(), "later.jsonl", "1" * 64
    later.save(force_insert=True)
    storage.source_path(later).write_text('{"text": "bye", "label": "farewell"}\n')
    tasks.run(str(waiting.pk))
    report = services.last_report(dataset)
    assert report == waiting
    assert report.result["files"] == ["tickets.jsonl", "later.jsonl"]
    assert services.is_current(report)
    services.remove_file(file=later)
    assert not services.is_current(report)


def test_validation_data_that_is_checked_anew_while_it_is_taken_is_not_taken_in_part(
    report: DataWork, dataset: Dataset, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Dataset.objects.create(workspace=dataset.workspace, name="Judged", created_by=alice)
    begun = {"dataset": other, "kind": "report", "sent_at": timezone.now(), "state": State.READY}
    judged = DataWork.objects.create(**begun, finished_at=timezone.now())
    (storage.work_folder(judged) / "records").mkdir(parents=True)
    (storage.work_folder(judged) / "records" / "00000.jsonl").write_text("{}\n")
    version = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice, validation=judged)
    found = data_worker._report_of

    def found_too_late(work_: DataWork, name: str = "report") -> DataWork:
        one = found(work_, name)
        if name == "validation":
            storage.remove_other_work(DataWork.objects.create(**begun, finished_at=timezone.now()))
        return one

    monkeypatch.setattr(data_worker, "_report_of", found_too_late)
    monkeypatch.setattr("training.datasets.clean.freeze", lambda *_, **__: pytest.fail("nothing to judge by"))
    tasks.run(str(version.work_id))
    assert DataWork.objects.get(pk=version.work_id).error_code == "report_gone"


def test_data_is_never_compared_with_that_of_another_workspace(
    dataset: Dataset, source: SourceFile, elsewhere: Workspace, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[list[Path]] = []

    def noting(folder: Path, *, evaluation: list[Path], **_: object) -> Report:
        compared.append(evaluation)
        raise DataError("noted", "Noted.")

    monkeypatch.setattr("training.datasets.profile.profile", noting)
    for workspace in (elsewhere, dataset.workspace):
        other = Dataset.objects.create(workspace=workspace, name="Other", created_by=None)
        version = DatasetVersion.objects.create(
            dataset=other, number=1, state=DatasetVersion.State.READY, recipe={}, parent="", content_hash="1"
        )
        made = services.start_report(dataset=dataset, evaluation=str(version.pk))
        tasks.run(str(made.pk))
    assert compared[0] == []
    assert len(compared[1]) == 2


def test_work_whose_workers_die_again_and_again_fails_and_says_why(
    waiting: DataWork, dataset: Dataset, alice: User, logged_in: LogIn
) -> None:
    for _ in range(work.MAX_CRASHES):
        claimed = work.claim_work(work_id=waiting.pk)
        assert claimed is not None
        silent(claimed)
        tasks.reap()
    waiting.refresh_from_db()
    assert (waiting.state, waiting.error_code) == (State.FAILED, "worker_lost")
    assert "ended twice" in logged_in(alice).get(f"/data/{dataset.pk}/report/").content.decode()


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_what_dead_workers_wrote_goes_when_nobody_begins_their_work_anew(
    is_cancelled: bool, waiting: DataWork, home: Path, django_capture_on_commit_callbacks: Any
) -> None:
    DataWork.objects.filter(pk=waiting.pk).update(crashes=0 if is_cancelled else work.MAX_CRASHES - 1)
    claimed = work.claim_work(work_id=waiting.pk)
    assert claimed is not None
    made = storage.work_folder(claimed)
    for folder in (made, made.with_name(f"{made.name}.partial"), made.with_name(f"{made.name}.validation")):
        (folder / "records").mkdir(parents=True)
    if is_cancelled:
        work.cancel_work(work=claimed)
    silent(claimed)
    with django_capture_on_commit_callbacks(execute=True):
        tasks.reap()
    waiting.refresh_from_db()
    assert waiting.state == (State.CANCELLED if is_cancelled else State.FAILED)
    assert list(made.parent.iterdir()) == []


def test_work_that_is_cancelled_while_it_waits_for_a_second_worker_leaves_nothing_of_the_first(
    waiting: DataWork, django_capture_on_commit_callbacks: Any
) -> None:
    first = work.claim_work(work_id=waiting.pk)
    assert first is not None
    (storage.work_folder(first) / "records").mkdir(parents=True)
    silent(first)
    tasks.reap()
    assert storage.work_folder(first).exists()  # it may live and write; whoever begins anew removes it
    with django_capture_on_commit_callbacks(execute=True):
        work.cancel_work(work=DataWork.objects.get(pk=waiting.pk))
    assert not storage.work_folder(first).exists()


def test_what_is_written_while_effects_are_counted_lies_with_the_attempt_and_not_with_the_report(
    report: DataWork, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = services.start_preview(dataset=dataset, recipe=Recipe())
    before = set(storage.work_folder(report).iterdir())

    def plan(folder: Path, validation: None, recipe: Recipe, scratch: Path, *_: object, **__: object) -> None:
        assert set(folder.iterdir()) == before
        assert scratch.is_dir()
        counting.refresh_from_db()
        assert scratch == storage.work_folder(counting)
        raise DataError("noted", "Noted.")

    monkeypatch.setattr("training.datasets.clean._plan", plan)
    tasks.run(str(counting.pk))
    counting.refresh_from_db()
    assert counting.error_code == "noted"
    assert not storage.work_folder(counting).exists()


def test_a_worker_that_is_heard_of_keeps_its_work(waiting: DataWork) -> None:
    claimed = work.claim_work(work_id=waiting.pk)
    assert claimed is not None
    silent(claimed)
    assert work.keep_work(work=claimed, stage="reading", done=3, total=4)
    tasks.reap()
    waiting.refresh_from_db()
    assert (waiting.state, waiting.stage, waiting.percent) == (State.RUNNING, "reading", 75)


def test_a_task_that_was_lost_is_sent_again(waiting: DataWork, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(work, "_send", sent.append)
    tasks.reap()
    assert sent == []
    DataWork.objects.update(sent_at=timezone.now() - work._LOST_AFTER * 1.1)
    tasks.reap()
    tasks.reap()
    assert sent == [waiting.pk]


def test_what_waits_is_cancelled_at_once(
    waiting: DataWork, dataset: Dataset, alice: User, logged_in: LogIn
) -> None:
    assert logged_in(alice).post(f"/data/work/{waiting.pk}/cancel/").status_code == 302
    waiting.refresh_from_db()
    assert waiting.state == State.CANCELLED
    assert work.claim_work(work_id=waiting.pk) is None
    assert work.unfinished(dataset) is None


def test_what_is_cancelled_while_it_runs_stops_and_leaves_nothing_behind(
    waiting: DataWork, does: Callable[[Doing], None]
) -> None:
    def cancelled(work_: DataWork, progress: data_worker.Keeper) -> bool:
        folder = storage.work_folder(work_)
        folder.mkdir(parents=True)
        (folder / "records").write_text("half")
        work.cancel_work(work=DataWork.objects.get(pk=work_.pk))
        assert not work.keep_work(work=work_, stage="reading", done=1, total=2)  # as the keeper hears it
        raise Cancelled

    does(cancelled)
    tasks.run(str(waiting.pk))
    waiting.refresh_from_db()
    assert waiting.state == State.CANCELLED
    assert list((storage.dataset_folder(waiting.dataset_id) / "work").iterdir()) == []


@pytest.mark.django_db(transaction=True)
def test_progress_reaches_the_page_and_a_cancel_the_worker(waiting: DataWork) -> None:
    claimed = work.claim_work(work_id=waiting.pk)
    assert claimed is not None

    def go_on(progress: data_worker.Keeper) -> None:
        while not threading.Event().wait(0.02):
            progress("reading", 21, 50)
            row = DataWork.objects.get(pk=waiting.pk)
            if row.percent == 42 and not row.cancel_requested:
                work.cancel_work(work=row)

    with data_worker.Keeper(claimed) as progress, pytest.raises(Cancelled):
        go_on(progress)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("mixed_kinds", "A dataset holds examples of one kind."), "mixed_kinds", "one kind"),
        (OSError(28, "No space left on device"), "disk", "disk is full"),
        (ValueError("a fault of ours"), "internal", "went wrong on the server"),
    ],
)
def test_a_failure_is_a_sentence_with_a_code(
    error: Exception,
    code: str,
    said: str,
    waiting: DataWork,
    dataset: Dataset,
    alice: User,
    does: Callable[[Doing], None],
    logged_in: LogIn,
) -> None:
    def fails(*_: object) -> bool:
        raise error

    does(fails)
    tasks.run(str(waiting.pk))
    waiting.refresh_from_db()
    assert (waiting.state, waiting.error_code) == (State.FAILED, code)
    for page in ("", "report/"):
        assert said in logged_in(alice).get(f"/data/{dataset.pk}/{page}").content.decode()
    assert "a fault of ours" not in waiting.error_message


def test_a_report_is_kept_until_the_next_one_is_there(
    report: DataWork, dataset: Dataset, does: Callable[[Doing], None]
) -> None:
    def fails(*_: object) -> bool:
        raise DataError("broken", "Broken.")

    does(fails)
    tasks.run(str(services.start_report(dataset=dataset).pk))
    assert services.last_report(dataset) == report
    assert storage.work_folder(report).is_dir()


def test_a_dataset_deleted_while_a_worker_writes_leaves_no_files(
    waiting: DataWork, dataset: Dataset, home: Path, does: Callable[[Doing], None], alice: User
) -> None:
    def deleted(work_: DataWork, progress: data_worker.Keeper) -> bool:
        services.delete_dataset(dataset=Dataset.objects.get(pk=dataset.pk), user=alice)
        storage.work_folder(work_).mkdir(parents=True)
        return ends(work_, progress)

    does(deleted)
    tasks.run(str(waiting.pk))
    assert list((home / "datasets").iterdir()) == []


def test_a_freeze_that_fails_says_why_and_leaves_no_version_nor_does_one_that_is_cancelled(
    report: DataWork, dataset: Dataset, alice: User, logged_in: LogIn
) -> None:
    failing = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice)
    for _ in range(work.MAX_CRASHES):
        claimed = work.claim_work(work_id=str(failing.work_id))
        assert claimed is not None
        silent(claimed)
        tasks.reap()
    failing.refresh_from_db()
    assert failing.state == DatasetVersion.State.FAILED
    page = logged_in(alice).get(f"/data/{dataset.pk}/versions/").content.decode()
    assert "The process that did this ended twice" in page
    assert "Nothing frozen yet" in page
    assert "Version 1" not in page
    second = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice)
    assert second.number == 1
    assert second.work is not None
    work.cancel_work(work=second.work)
    assert not dataset.versions.exists()


def test_where_a_version_lies_is_on_the_disk_before_it_is_ready(
    report: DataWork, dataset: Dataset, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path, recipe: Recipe, out: Path, **_: object) -> Manifest:
        out.mkdir(parents=True)
        splits = {name: SplitInfo(1, "0" * 64) for name in SPLITS}
        return Manifest(1, "labelled", content_hash("labelled", splits), "", recipe, splits, [])

    monkeypatch.setattr("training.datasets.clean.freeze", make)
    version = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice)
    synced = note_synced(monkeypatch)
    tasks.run(str(version.work_id))
    place = storage.version_folder(version)
    assert place.is_dir()
    assert place.name in synced[place.parent]


def test_a_file_no_one_could_look_at_is_not_waited_for(dataset: Dataset) -> None:
    file = uploads.begin_upload(dataset=dataset, name="a", size=1)
    SourceFile.objects.update(state=SourceFile.State.DETECTING)
    looking = work.begin_work(dataset=dataset, kind="detect", parameters={}, file=file)
    storage.source_path(file).unlink()
    tasks.run(str(looking.pk))
    file.refresh_from_db()
    assert file.state == SourceFile.State.UNREADABLE


@pytest.fixture
def unseen(source: SourceFile) -> DataWork:
    """The look at a second file, whose bytes are gone; the first one has been looked at."""
    file = uploads.begin_upload(dataset=source.dataset, name="second.jsonl", size=1)
    SourceFile.objects.filter(pk=file.pk).update(state=SourceFile.State.DETECTING)
    storage.source_path(file).unlink()
    return work.begin_work(dataset=source.dataset, kind="detect", parameters={}, file=file)


def test_the_first_check_begins_although_the_look_at_the_last_file_failed(
    unseen: DataWork, dataset: Dataset
) -> None:
    tasks.run(str(unseen.pk))
    assert [(report.kind, report.state) for report in dataset.work.all()] == [
        ("detect", State.FAILED),
        ("report", State.QUEUED),
    ]


def test_the_first_check_begins_although_those_who_looked_at_the_last_file_died(
    unseen: DataWork, dataset: Dataset
) -> None:
    for _ in range(work.MAX_CRASHES):
        assert not dataset.work.filter(kind="report").exists()
        claimed = work.claim_work(work_id=unseen.pk)
        assert claimed is not None
        silent(claimed)
        tasks.reap()
    assert dataset.work.get(kind="report").state == State.QUEUED


@pytest.mark.parametrize("by_a_person", [True, False])
def test_the_first_check_begins_once_the_file_that_was_waited_for_has_gone(
    by_a_person: bool, dataset: Dataset, source: SourceFile, alice: User, logged_in: LogIn
) -> None:
    late, later = (uploads.begin_upload(dataset=dataset, name=name, size=9) for name in ("late", "later"))
    for file in (late, later):
        assert not dataset.work.exists()
        if by_a_person:
            assert logged_in(alice).post(f"/data/files/{file.pk}/remove/").status_code == 302
        else:
            SourceFile.objects.filter(pk=file.pk).update(received_at=timezone.now() - uploads.ABANDONED * 1.1)
            tasks.reap()
    assert dataset.work.get().kind == "report"


def test_the_number_of_a_deleted_version_is_not_given_again(
    report: DataWork, dataset: Dataset, alice: User, logged_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = iter("abc")

    def make(folder: Path, recipe: Recipe, out: Path, **_: object) -> Manifest:
        out.mkdir(parents=True)
        splits = {name: SplitInfo(1, next(contents) * 64 if name == "train" else "") for name in SPLITS}
        return Manifest(1, "labelled", content_hash("labelled", splits), "", recipe, splits, [])

    def freeze() -> DatasetVersion:
        version = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice)
        tasks.run(str(version.work_id))
        version.refresh_from_db()
        assert version.state == DatasetVersion.State.READY
        return version

    monkeypatch.setattr("training.datasets.clean.freeze", make)
    numbers = [freeze().number]
    newest = freeze()
    assert logged_in(alice).post(f"/data/versions/{newest.pk}/delete/").status_code == 302
    # One that came to nothing has taught nobody anything.
    cancelled = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice)
    assert cancelled.work is not None
    work.cancel_work(work=cancelled.work)
    numbers += [newest.number, cancelled.number, freeze().number]
    assert numbers == [1, 2, 3, 3]


def test_datasets_that_were_there_before_know_the_highest_number_of_their_versions(dataset: Dataset) -> None:
    for number, state in ((1, "ready"), (2, "ready"), (3, "failed")):
        DatasetVersion.objects.create(dataset=dataset, number=number, state=state, recipe={}, parent="")
    import_module("training.migrations.0007_version_numbers_once").take_over(apps, None)
    dataset.refresh_from_db()
    assert dataset.highest_version == 2
