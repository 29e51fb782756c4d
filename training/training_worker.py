"""A worker's side of a training job: claims one, starts its trainer, watches it, writes down what came of it.

The trainer is processes of their own, so a job is ended whatever it does, and nothing it does ends the worker. It has
ended, with all of it gone, before the row says so: whoever claims the job next is alone with its folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from django.conf import settings
from django.db import Error as DatabaseFailure
from django.db import close_old_connections, transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from inference import local_models
from inference.local_models import NotHere
from training import job_life, storage, tail
from training.datasets.frozen import check_files, read_manifest
from training.datasets.problems import DataError
from training.evaluation_file import read_evaluation
from training.job_notify import job_changed
from training.knobs import trainer_task
from training.lease_guard import LeaseGuard
from training.models import Job, ResultFile
from training.patience import HOURS, RELEASE, Patience
from training.publishing import Publication, kept_checkpoints, prepare
from training.results import write_results
from training.search_space import judged_length
from training.trainer.failures import EXIT_STATUS, TrainingFailure
from training.trainer_limits import NO_ROOM, Passed, TrainerLimits
from training.trainer_process import NotEnded, TrainerProcess, end_left
from webapp.core.errors import UserError
from webapp.core.plain_files import create_plain
from webapp.core.request_ids import on_behalf_of

logger = logging.getLogger(__name__)
T = TypeVar("T")
State, Wish = Job.State, Job.Wish

# Set when this worker is told to end.
stopping = threading.Event()
_TICK = 0.5  # seconds
# Rows keep sentences in English; pages translate them.
INTERNAL = gettext_noop("The training ended by an error on our side. The log of its worker says more.")
DATA_GONE = gettext_noop("The data of this fine-tune was deleted.")
UNSAID = gettext_noop(
    "The training ended, and could not write down why; the disk may be full. The log of its worker says more."
)
NOT_ENDED = gettext_noop(
    "Processes of this training cannot be ended, maybe since a disk or a GPU does not answer. Tell the person who runs"
    " this site, and resume it when they are gone: the last checkpoint is kept."
)


class Lost(Exception):
    """The job is another attempt's by now, or gone."""


class Asked(Exception):
    """It was to end before there was a trainer."""


class Ended(NamedTuple):
    """A trainer has, and nothing of it is left."""

    last_words: str
    exit_status: int | None


def run_next() -> None:
    """Does the job whose turn it is, if one waits."""
    if stopping.is_set():
        return  # the reaper sends the task again
    local_models.forget_removed()
    job = job_life.claim_next()
    if job is not None:
        Supervision(job).run()


def threads() -> int:
    """Of each process. At least one core is left to chat, where there are two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max((settings.TRAINING_THREADS or cores - 1) // settings.TRAINING_PROCESSES, 1)


class Supervision:
    """Of one attempt at a job."""

    def __init__(self, job: Job) -> None:
        self._job, self._folder = job, storage.job_folder(job)
        self._asked = ""  # the Wish or RELEASE that the trainer was stopped for
        self._passed: Passed | None = None  # a limit, for which it was stopped
        self._guard = LeaseGuard(job_life.LEASE.total_seconds())

    def run(self) -> None:
        with on_behalf_of(self._job.request_id, job=str(self._job.id)):
            self._run()

    def _run(self) -> None:
        job = self._job
        try:
            self._conclude(self._train())
        except Asked:
            self._end_as_asked()
        except (TrainingFailure, DataError, UserError) as failure:
            self._fail(failure.code, failure.message)
        except Lost:
            logger.info("job %s is no longer ours", job.id)
            if not Job.objects.filter(id=job.id).exists():
                # It was deleted meanwhile, and what we wrote since then lies there alone.
                storage.remove_folder(self._folder)
        except DatabaseFailure:
            logger.exception("job %s is left to the reaper", job.id)
            close_old_connections()
        except NotEnded:
            logger.exception("job %s has processes left", job.id)
            self._fail("not_ended", NOT_ENDED)
        except OSError:
            logger.exception("job %s met a broken disk", job.id)
            self._fail("disk", NO_ROOM)
        except Exception:
            logger.exception("job %s failed", job.id)
            self._fail("internal", INTERNAL)

    # --- Training -------------------------------------------------------------------------------------------
    def _train(self) -> Ended:
        """Starts the trainer and watches it to its end."""
        job, folder = self._job, self._folder
        end_left(str(job.id))
        folder.mkdir(parents=True, exist_ok=True)
        data = self._checked_data()
        with self._base_here():
            return self._train_on(data)

    def _train_on(self, data: Path) -> Ended:
        job, folder = self._job, self._folder
        spec = self._write_spec(data)
        if not job_life.begin(job):
            raise Lost
        tail.begin(job, folder)
        trainer = TrainerProcess(
            folder,
            str(job.id),
            spec,
            processes=settings.TRAINING_PROCESSES,
            threads=threads(),
            # So the logs of the trainer are found with those of who asked for it.
            heading={"event": "trainer_started", "job": str(job.id), "attempt": job.attempt}
            | {"request_id": job.request_id, "timestamp": timezone.now().isoformat()},
        )
        try:
            with self._guard.watching(trainer):
                self._watch(trainer)
        finally:
            trainer.kill()
        storage.remove_half_saved(job)
        if tail.drain(job, folder) is None:
            raise Lost
        return Ended(trainer.last_words(), trainer.exit_status)

    def _watch(self, trainer: TrainerProcess) -> None:
        """Until it has ended."""
        patience, limits = Patience(), TrainerLimits()
        while not trainer.ended(_TICK):
            self._look()
            self._passed = self._passed or limits.passed(trainer)
            if self._passed is not None and not self._passed.has_time:
                trainer.kill()
            elif patience.begin(*self._reasons()):
                trainer.stop()
            elif patience.is_over(tail.sign_of_life(self._folder)):
                logger.warning("job %s is ended: it has not saved in time", self._job.id)
                trainer.kill()

    def _reasons(self) -> Iterator[str]:
        """Why its trainer is to stop."""
        if self._asked:
            yield self._asked
        if self._passed is not None:
            yield HOURS
        if stopping.is_set():
            yield RELEASE  # whatever else is wished: there is no more time than that

    def _checked_data(self) -> Path:
        """The folder of the data, which is what was frozen. Raises TrainingFailure and DataError."""
        if self._job.version is None:
            raise TrainingFailure("data", DATA_GONE)
        folder = storage.version_folder(self._job.version)
        manifest = read_manifest(folder)
        if manifest.content_hash != self._job.data_hash:
            raise TrainingFailure("data", "The dataset is not the one this fine-tune was started with.")
        looked = 0.0

        def beat() -> None:
            nonlocal looked
            if time.monotonic() - looked > _TICK:
                looked = time.monotonic()
                self._look()
                if self._asked:
                    raise Asked

        check_files(folder, manifest, beat)
        return folder

    @contextlib.contextmanager
    def _base_here(self) -> Iterator[None]:
        """The base's files are on this host meanwhile. Raises TrainingFailure."""
        base = self._job.base
        if base is None:
            yield
            return
        try:
            held = self._meanwhile(lambda: local_models.hold(base, lambda: bool(self._asked)))
        except NotHere as error:
            if self._asked:
                raise Asked from error
            raise TrainingFailure("model", f"{base.name} cannot be used. {error}") from error
        with held:
            if self._asked:
                raise Asked
            yield

    def _meanwhile(self, work: Callable[[], T]) -> T:
        """Does what may take minutes, as large files on their way do, and keeps the job alive. Raises Lost, and what
        `work` raises."""
        with ThreadPoolExecutor(1, thread_name_prefix="transfer") as thread:
            doing = thread.submit(work)
            while not doing.done():
                wait([doing], _TICK)
                self._look()
            return doing.result()

    def _write_spec(self, dataset: Path) -> Path:
        job = self._job
        spec: dict[str, Any] = {**job.spec, **trainer_task(job.task)}
        spec |= {
            "base": str(job.base.location) if job.base is not None else "",
            "dataset": str(dataset),
            "output": str(self._folder),
            "device": settings.TRAINING_DEVICE,
            "threads": threads(),
        }
        if job.search is not None:
            judged = judged_length(job.task, job.search.parameters.get("space", {}))
            spec |= {"validation_length": judged or "auto"}
        with create_plain(self._folder, "spec.json") as file:
            file.write(msgspec.json.encode(spec))
        return self._folder / "spec.json"

    def _look(self) -> None:
        """Renews the lease, takes in what is new, and hears what is wished. Raises Lost."""
        began = time.monotonic()
        wish: str | None
        try:
            wish = tail.take_in(self._job, self._folder)
        except DatabaseFailure as error:
            logger.warning("what job %s does is not written down: %s", self._job.id, error)
            close_old_connections()
            wish = Wish.NONE
        else:
            if wish is None:
                raise Lost
            self._guard.renewed(began)
        self._asked = wish or self._asked
        if not self._asked and (stopping.is_set() or self._guard.has_given_up):
            self._asked = RELEASE

    # --- The end --------------------------------------------------------------------------------------------
    def _conclude(self, ended: Ended) -> None:
        status = tail.read_status(self._folder)
        failure = _failure(status, ended)
        if failure is not None and failure.code == "internal" and settings.TRAINING_PROCESSES > 1:
            failure = None  # of what another of them did: it was killed, or had stopped already
        if status.get("state") == "succeeded":
            self._succeed()
        elif self._asked == Wish.CANCEL or (self._asked and failure is None):
            self._end_as_asked()
        elif self._passed is not None:
            self._fail(self._passed.code, self._passed.message)
        elif failure is not None:
            self._fail(failure.code, failure.message)
        else:
            job_life.crashed(self._job)

    def _succeed(self) -> None:
        job = self._job
        judged = read_evaluation(self._folder)
        tokens, size = write_results(job)
        publication: Publication | None = None
        # Of a search's trials the best one is served, once that is known (`training.search`).
        if job.search_id is None:
            job_life.keep(job, stage=job_life.PUBLISHING)
            job_changed(job)
            checkpoints = kept_checkpoints(job)
            publication = self._meanwhile(lambda: prepare(job, self._folder, checkpoints))
        try:
            with transaction.atomic():
                if not job_life.lock(job):
                    raise Lost
                model = publication.save() if publication is not None else None
                if model is not None:
                    job_life.add_event(job, "model", f"New model: {model.name}", data={"model": model.name})
                if size:
                    ResultFile.objects.update_or_create(job=job, defaults={"size": size})
                ended = {"model": model, "evaluation": judged, "eta": None, "trained_tokens": tokens}
                job_life.end(job, State.SUCCEEDED, **ended)
        except BaseException:
            if publication is not None:
                publication.discard()
            raise

    def _end_as_asked(self) -> None:
        job = self._job
        if self._asked == RELEASE:
            job_life.release(job)
        elif self._asked == Wish.PAUSE:
            job_life.end(job, State.PAUSED)
        else:
            job_life.end(job, State.CANCELLED)

    def _fail(self, code: str, message: str) -> None:
        job_life.end(self._job, State.FAILED, error_code=code, error_message=message)


def _failure(status: dict[str, Any], ended: Ended) -> TrainingFailure | None:
    """What the trainer says it ended of; None where it could not say anything."""
    if status.get("state") == "failed":
        return TrainingFailure(status["error"], status["message"])
    # Before it knows where to write, it says it on stderr alone.
    for line in reversed(ended.last_words.splitlines()):
        if line.startswith('{"error"'):
            try:
                said = json.loads(line)
                return TrainingFailure(said["error"], said["message"])
            except (ValueError, KeyError):
                continue
    # On a full disk it can say it in neither.
    for code, exit_status in EXIT_STATUS.items():
        if exit_status == ended.exit_status and code != "stopped":
            return TrainingFailure(code, NO_ROOM if code == "disk" else UNSAID)
    return None
