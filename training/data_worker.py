"""A worker's side of data work: claims a row, does what it says with files, writes down what came of it.

What reading, counting and freezing are is `training.datasets`' business. Knows no torch.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from django.db import Error as DatabaseFailure
from django.db import close_old_connections, connection, transaction
from django.utils.translation import gettext_noop

from inference import local_models
from inference.local_models import NotHere
from inference.models import ServedModel
from training import services, storage
from training import work as life
from training.datasets.codes import problem
from training.datasets.frozen import Manifest
from training.datasets.problems import DataError, Problem
from training.datasets.progress import Cancelled
from training.datasets.recipe import Recipe
from training.datasets.sources import Reading, Source
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from training.turns import Turns
from webapp.core import durable

logger = logging.getLogger(__name__)
Kind, State = DataWork.Kind, DataWork.State
# Bytes: from here on it takes a minute and more. One of a worker's threads (`webapp.ops.processes.data`) is left to
# what is smaller, however many large files somebody has.
LARGE = 64 * 2**20
turns = Turns(most=2)
# Progress reaches the database, and a wish to cancel the worker, this often; the lease is renewed at least so often.
_LOOK_SECONDS, _RENEW_SECONDS = 0.5, 2.0
DISK_FULL = gettext_noop(
    "The disk is full, or the file cannot be read there. Nothing was changed. Make room and try again."
)
# Of a version; its file names them all. A column of whatever differs in every row may be taken for labels.
MOST_LABELS = 1_000
INTERNAL = gettext_noop(
    "Something went wrong on the server. Nothing was changed; its log says more. Try again."
)
MODEL_GONE = gettext_noop("The model whose tokens were to be counted is no longer installed. Choose another.")
REPORT_GONE = gettext_noop("What the check left behind is no longer there. Check the data again.")


class Keeper:
    """Called with progress as often as the work likes; a thread of its own tells the database and hears of a cancel."""

    def __init__(self, work: DataWork) -> None:
        self._work = work
        self.held = ExitStack()  # what has to stay until the work is done
        self._now: tuple[str, int, int] = ("", 0, 0)
        self._unwanted, self._over = threading.Event(), threading.Event()
        self._is_short = storage.is_short()
        self._thread = threading.Thread(target=self._keep, name=f"keeper of {work.id}", daemon=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._now = (stage, done, total)
        if self._unwanted.is_set():
            raise Cancelled
        if self._is_short:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.held.close()

    def _keep(self) -> None:
        told, waited = self._now, 0.0
        while not self._over.wait(_LOOK_SECONDS) and not self._unwanted.is_set():
            waited += _LOOK_SECONDS
            self._is_short = storage.is_short()
            now = self._now
            if now == told and waited < _RENEW_SECONDS:
                continue
            told, waited = now, 0.0
            try:
                if not life.keep_work(work=self._work, stage=now[0], done=now[1], total=now[2]):
                    self._unwanted.set()
            except DatabaseFailure as error:
                logger.warning("progress of data work %s not kept: %s", self._work.id, error)
                close_old_connections()
        connection.close()


def run_in_turn(work_id: UUID | str) -> None:
    """Does a piece of work, if nobody else does: at once, or, of much data, when it is its workspace's turn.

    Should this process end before, the reaper sends its task again.
    """
    work = DataWork.objects.select_related("dataset", "file").filter(id=work_id).first()
    if work is None:
        return
    sizes = [work.file.size] if work.file is not None else work.dataset.files.values_list("size", flat=True)
    if sum(sizes) > LARGE:
        turns.take(work.dataset.workspace_id, work.id, run_work)
    else:
        run_work(work.id)


def run_work(work_id: UUID | str) -> None:
    """Does a piece of work, if nobody else does."""
    work = life.claim_work(work_id=work_id)
    if work is None:
        return
    storage.remove_attempts(work)
    outcome: dict[str, Any] = {"state": State.FAILED, "error_code": "internal", "error_message": INTERNAL}
    try:
        with Keeper(work) as progress:
            if _DOING[work.kind](work, progress):
                return
        outcome = {"state": State.CANCELLED}  # another attempt's by now; what follows changes nothing then
    except Cancelled:
        outcome = {"state": State.CANCELLED}
    except DataError as error:
        outcome |= {"error_code": error.code, "error_message": error.message}
    except OSError:
        logger.exception("data work %s met a broken disk", work.id)
        outcome |= {"error_code": "disk", "error_message": DISK_FULL}
    except Exception:
        logger.exception("data work %s failed", work.id)
    life.end_work(work=work, expected=State.RUNNING, **outcome)
    storage.remove_folder(storage.work_folder(work))
    if not Dataset.objects.filter(id=work.dataset_id).exists():
        # It was deleted meanwhile, and what we wrote since then lies there alone.
        storage.remove_folder(storage.dataset_folder(work.dataset_id))


def processes() -> int:
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _detect(work: DataWork, progress: Keeper) -> bool:
    from training.datasets.detect import detect

    file = work.file
    assert file is not None
    path = storage.source_path(file)
    sha256 = file.sha256 or storage.sha256_of(path)
    asked, before = work.parameters.get("reading"), work.parameters.get("before", ())
    detected = detect(path, file.name, asked and msgspec.convert(asked, Reading), before)
    readable = detected.reading is not None
    with transaction.atomic():
        if not life.lock_work(work=work):
            return False
        SourceFile.objects.filter(id=file.id).update(
            sha256=sha256,
            detected=_storable(detected),
            reading=msgspec.to_builtins(detected.reading) if readable else asked,
            state=SourceFile.State.READY if readable else SourceFile.State.UNREADABLE,
        )
        # In one go with the first check that this begins: whoever looks at the page sees that something is going on
        # until that has ended.
        life.end_work(work=work, expected=State.RUNNING, state=State.READY)
    return True


def _report(work: DataWork, progress: Keeper) -> bool:
    from training.datasets.profile import profile
    from training.datasets.reading import read_sources

    folder = storage.work_folder(work)
    folder.mkdir(parents=True, exist_ok=True)
    # Others may have arrived since it was asked for: what it says it is of is what is read here.
    files = services.readable_files(work.dataset)
    unreadable = services.unreadable_files(work.dataset)
    sources, wanted = _sources(files), work.parameters | services.files_checked(files, unreadable)
    read = read_sources(
        sources,
        folder,
        unreadable=[_refusal(file) for file in unreadable],
        progress=progress,
        processes=processes(),
    )
    report = profile(
        folder,
        model=_model(wanted["model"], progress.held),
        max_tokens=wanted["max_tokens"],
        evaluation=_evaluation(work.dataset, wanted["evaluation"]),
        files=[source.name for source in sources],
        read=read,
        progress=progress,
        processes=processes(),
    )
    result = _storable(report)
    ended = {"state": State.READY, "result": result, "parameters": wanted}
    if not life.end_work(work=work, expected=State.RUNNING, **ended):
        return False
    storage.remove_other_work(work)
    return True


def _preview(work: DataWork, progress: Keeper) -> bool:
    from training.datasets.clean import preview

    report = _report_of(work)
    effects = preview(
        storage.work_folder(report),
        _recipe(work),
        storage.work_folder(work),
        model=_model(report.parameters["model"], progress.held),
        evaluation=_evaluation(work.dataset, report.parameters["evaluation"]),
        progress=progress,
        processes=processes(),
    )
    return life.end_work(work=work, expected=State.RUNNING, state=State.READY, result=_storable(effects))


def _freeze(work: DataWork, progress: Keeper) -> bool:
    from training.datasets.clean import freeze

    report = _report_of(work)
    version = DatasetVersion.objects.get(work=work)
    made = storage.work_folder(work)
    aside = made.with_name(f"{made.name}.validation")
    try:
        manifest = freeze(
            storage.work_folder(report),
            _recipe(work),
            made,
            parent=version.parent,
            validation=_given_validation(work, aside),
            model=_model(report.parameters["model"], progress.held),
            evaluation=_evaluation(work.dataset, report.parameters["evaluation"]),
            progress=progress,
            processes=processes(),
        )
    finally:
        storage.remove_folder(aside)
    with transaction.atomic():
        if not life.lock_work(work=work):
            return False
        result = _keep_version(version, manifest, made)
        life.end_work(work=work, expected=State.RUNNING, state=State.READY, result=result)
    return True


def _keep_version(version: DatasetVersion, manifest: Manifest, made: Path) -> dict[str, Any]:
    """Moves what was made to its place; where the same was frozen before, that version stays the only one."""
    same = DatasetVersion.objects.filter(
        dataset=version.dataset_id, content_hash=manifest.content_hash
    ).first()
    if same is not None:
        version.delete()
        storage.remove_folder(made)
        return {"version": same.number, "is_new": False}
    place = storage.version_folder(version)
    storage.remove_folder(place)
    with durable.named(place):
        made.rename(place)
    splits = {name: split.examples for name, split in manifest.splits.items()}
    told = msgspec.structs.replace(manifest, labels=manifest.labels[:MOST_LABELS])
    DatasetVersion.objects.filter(id=version.id).update(
        state=DatasetVersion.State.READY,
        kind=manifest.kind,
        content_hash=manifest.content_hash,
        manifest=_storable(told),
        **splits,
    )
    Dataset.objects.filter(id=version.dataset_id).update(highest_version=version.number)
    return {"version": version.number, "is_new": True}


_DOING: dict[str, Callable[[DataWork, Keeper], bool]] = {
    Kind.DETECT: _detect,
    Kind.REPORT: _report,
    Kind.PREVIEW: _preview,
    Kind.FREEZE: _freeze,
}


def _storable(found: object) -> Any:
    """As a database keeps it: PostgreSQL has no NUL, and texts out of people's files may."""
    if isinstance(found, str):
        return found.replace("\0", "\ufffd")
    if isinstance(found, list | tuple):
        return [_storable(each) for each in found]
    if isinstance(found, dict):
        return {_storable(name): _storable(each) for name, each in found.items()}
    return _storable(msgspec.to_builtins(found)) if isinstance(found, msgspec.Struct) else found


def _sources(files: list[SourceFile]) -> list[Source]:
    return [
        Source(storage.source_path(file), file.name, msgspec.convert(file.reading, Reading)) for file in files
    ]


def _refusal(file: SourceFile) -> Problem:
    """What is wrong with a file that cannot be read."""
    return problem(file.refusal.code, file.name, 0, "", "", file.refusal.reason)


def _report_of(work: DataWork, name: str = "report") -> DataWork:
    """The report whose records this work is about; its model and evaluation data count here too."""
    reports = DataWork.objects.filter(dataset__workspace=work.dataset.workspace_id, state=State.READY)
    report = reports.filter(id=work.parameters[name]).first()
    if report is None or not storage.work_folder(report).is_dir():
        raise DataError("report_gone", REPORT_GONE)
    return report


def _given_validation(work: DataWork, aside: Path) -> Path | None:
    """Links to the records of another dataset's report, which may be made anew there meanwhile."""
    if "validation" not in work.parameters:
        return None
    report = _report_of(work, "validation")
    records = storage.work_folder(report) / "records"
    (aside / "records").mkdir(parents=True, exist_ok=True)
    try:
        for shard in records.glob("*.jsonl"):
            (aside / "records" / shard.name).hardlink_to(shard)
    except FileNotFoundError as error:
        raise DataError("report_gone", REPORT_GONE) from error
    # The next report removes this one's records once it is the last: before that, none of them was missing.
    if services.last_report(report.dataset) != report:
        raise DataError("report_gone", REPORT_GONE)
    return aside


def _recipe(work: DataWork) -> Recipe:
    return msgspec.convert(work.parameters["recipe"], Recipe)


def _model(name: str, held: ExitStack) -> Path | None:
    """Its files stay on this host as long as what is `held`."""
    if not name:
        return None
    model = ServedModel.objects.filter(name=name).first()
    if model is None:
        raise DataError("model_gone", MODEL_GONE)
    try:
        held.enter_context(local_models.hold(model))
    except NotHere as error:
        raise DataError("model_gone", str(error)) from error
    return model.location


def _evaluation(dataset: Dataset, version_id: str) -> list[Path]:
    """The splits of a version of the same workspace that a model is evaluated with."""
    ready = DatasetVersion.objects.filter(dataset__workspace=dataset.workspace_id, state=State.READY)
    version = ready.filter(id=version_id).first() if version_id else None
    if version is None:
        return []
    return [storage.version_folder(version) / f"{split}.jsonl" for split in ("validation", "test")]
