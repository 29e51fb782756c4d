"""From what a trainer writes to rows: metrics.jsonl and status.json, each line once, under the attempt that reads.

A line counts when it is whole. What a job computes again after a crash replaces what it said before. A trainer may have
been taken over by what it reads: what it wrote is a file, of bounded lines, or nothing. Knows nothing of processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, get_args

import msgspec
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from training import job_life
from training.job_notify import job_changed
from training.models import Checkpoint, Job, JobEvent, Measurement, Sample
from training.search_tasks import send_search
from training.trainer.record import Doing
from webapp.core.plain_files import open_plain, read_plain

Kind, Level = Measurement.Kind, JobEvent.Level
_MOST_BYTES = 2**20  # of one transaction
_LONGEST_LINE = 2**24  # bytes: answers to prompts are in them
_LONGEST_STATUS = 2**20
_STAGES = ("loading", "reading", "training")
_DOINGS = get_args(Doing)[1:]  # of one that is training
# Steps are of different lengths; the rate that is shown is a moving average.
_NEW_SHARE = 0.2
# Rows keep sentences in English; pages translate them, and set the numbers in again.
BEYOND = gettext_noop(
    "Examples of which nothing is learnt, since their answers come after all that is read of them: {0}. What is read "
    "is {1} tokens: raise max_length, or shorten them."
)
_OF_THE_ROW = ("type", "time", "step", "loss")


def begin(job: Job, folder: Path) -> None:
    """Before a trainer starts, and while none runs: half a line that a killed one left would spoil the next one's."""
    (folder / "status.json").unlink(missing_ok=True)
    try:
        with open_plain(folder, folder / "metrics.jsonl", "r+b") as file:
            whole = _whole_lines(file)
            file.truncate(whole)
    except FileNotFoundError:
        whole = 0
    # A machine that stopped may have lost lines that are in our rows by now; they are computed and written again.
    job.metrics_read = min(job.metrics_read, whole)


def _whole_lines(file: IO[bytes]) -> int:
    """How many bytes they have."""
    at = file.seek(0, os.SEEK_END)
    while at:
        begin = max(0, at - _MOST_BYTES)
        file.seek(begin)
        if (found := file.read(at - begin).rfind(b"\n")) >= 0:
            return begin + found + 1
        at = begin
    return 0


def read_status(folder: Path) -> dict[str, Any]:
    """Nothing where there is none."""
    try:
        found = msgspec.json.decode(read_plain(folder, "status.json", most=_LONGEST_STATUS))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def sign_of_life(folder: Path) -> int:
    """Another whenever the trainer has said that it gets on."""
    try:
        return (folder / "status.json").lstat().st_mtime_ns
    except OSError:
        return 0


def take_in(job: Job, folder: Path) -> str | None:
    """Renews the lease and takes in what is new. What a person wishes of the job, or None where the attempt is lost."""
    changes = _from_status(job, read_status(folder))
    lines, read = _new_lines(folder, job.metrics_read)
    with transaction.atomic():
        if read > job.metrics_read:
            if not job_life.lock(job):
                return None
            changes |= _Lines(job, folder).taken(lines) | {"metrics_read": read}
        wish = job_life.keep(job, **changes)
        if changes:
            job_changed(job)
    for name, value in changes.items():
        setattr(job, name, value)
    return wish


def drain(job: Job, folder: Path) -> str | None:
    """Takes in all there is."""
    read = -1
    wish: str | None = job.wish
    while wish is not None and read != job.metrics_read:
        read, wish = job.metrics_read, take_in(job, folder)
    return wish


def _new_lines(folder: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from byte `start` on, and where the next begins."""
    try:
        with open_plain(folder, folder / "metrics.jsonl") as file:
            file.seek(start)
            data = file.read(_MOST_BYTES)
            if b"\n" not in data:
                data += file.readline(_LONGEST_LINE)
    except FileNotFoundError:
        return [], start
    # Of what is longer than any line is, all is passed over.
    whole = data if len(data) > _LONGEST_LINE else data[: data.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        try:
            lines.append(msgspec.json.decode(line))  # neither NaN nor what is beyond a float
        except (ValueError, RecursionError):
            continue
    return [line for line in lines if isinstance(line, dict)], start + len(whole)


def _from_status(job: Job, status: dict[str, Any]) -> dict[str, Any]:
    """What of it is new."""
    found: dict[str, Any] = {}
    if status.get("state") in _STAGES:
        found["stage"] = status["doing"] if status.get("doing") in _DOINGS else status["state"]
    # A trainer that goes on does not know these at first. A loss may be 0: of labels that are told apart for certain.
    for name in ("steps", "best_step"):
        if status.get(name):
            found[name] = status[name]
    for name in ("best_validation_loss", "base_validation_loss"):
        if status.get(name) is not None:
            found[name] = status[name]
    return {name: value for name, value in found.items() if getattr(job, name) != value}


class _Lines:
    """Takes lines in, inside a transaction that holds the job's row."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder = job, folder
        self._now: dict[str, Any] = {
            name: getattr(job, name) for name in ("step", "rate", "memory", "seconds", "data", "crashes")
        }
        # Others note events, too, but not while the row is locked.
        self._now["last_event"] = Job.objects.values_list("last_event", flat=True).get(id=job.id)
        self._now["chosen"] = {choice["knob"]: choice for choice in job.chosen}
        self._measured: dict[tuple[str, int], Measurement] = {}

    def taken(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """The job's fields as they are after these lines."""
        for line in lines:
            take = getattr(self, f"_on_{line.get('type')}", None)
            if take is not None:
                take(line)
        Measurement.objects.bulk_create(
            self._measured.values(),
            update_conflicts=True,
            unique_fields=["job", "kind", "step"],
            update_fields=["loss", "values", "number", "created_at"],
        )
        return self._now | {"chosen": list(self._now["chosen"].values())}

    def _measure(self, kind: str, line: dict[str, Any]) -> None:
        if line["loss"] is None:  # not a number: the trainer says so and ends
            return
        values = {name: value for name, value in line.items() if name not in _OF_THE_ROW}
        self._measured[kind, line["step"]] = Measurement(
            job=self._job,
            kind=kind,
            step=line["step"],
            loss=line["loss"],
            values=values,
            number=self._next_number(),
            created_at=timezone.now(),
        )

    def _next_number(self) -> int:
        self._now["last_event"] += 1
        return int(self._now["last_event"])

    def _rewind(self, step: int) -> None:
        """What came after `step` is computed again."""
        undone = [self._measured.pop(key) for key in [*self._measured] if key[1] > step]
        undone += Measurement.objects.filter(job=self._job, step__gt=step)
        self._now["seconds"] -= sum(each.values.get("seconds", 0) for each in undone)
        for rows in (Measurement, Sample, Checkpoint):
            rows.objects.filter(job=self._job, step__gt=step).delete()
        self._now["step"] = step

    def _on_step(self, line: dict[str, Any]) -> None:
        if line["step"] <= self._now["step"]:
            self._rewind(line["step"] - 1)
        self._measure(Kind.TRAIN, line)
        rate = line.get("tokens_per_second") or line.get("examples_per_second")
        before = self._now["rate"]
        if rate and before:
            rate = before + _NEW_SHARE * (rate - before)
        self._now |= {
            "step": line["step"],
            "epoch": line.get("epoch", 0),
            "eta": line.get("eta") or None,
            "rate": rate or before,
            "memory": max(self._now["memory"], line.get("memory", 0)),
            "seconds": self._now["seconds"] + line.get("seconds", 0),
        }

    def _on_validation(self, line: dict[str, Any]) -> None:
        self._measure(Kind.VALIDATION, line)
        if self._job.search_id is not None:
            send_search(self._job.search_id)

    def _on_resumed(self, line: dict[str, Any]) -> None:
        self._rewind(line["step"])
        exact = "" if line.get("exact", True) else " The machine is another: the last digits may differ."
        self._event("resumed", f"It goes on from step {line['step']}.{exact}", line)

    def _on_chosen(self, line: dict[str, Any]) -> None:
        self._now["chosen"][line["knob"]] = {name: line.get(name) for name in ("knob", "value", "why")}

    def _on_data(self, line: dict[str, Any]) -> None:
        self._now["data"] = {name: value for name, value in line.items() if name not in ("type", "time")}
        if line.get("beyond"):
            self._event_once("beyond", BEYOND.format(line["beyond"], line["max_length"]), line)

    def _on_refused(self, line: dict[str, Any]) -> None:
        message = f"Line {line['line']} of {line['split']}.jsonl is left out: {line['why']}"
        self._event_once("refused", message, line)

    def _on_checkpoint(self, line: dict[str, Any]) -> None:
        step = line["step"]
        judged = (
            self._measured.get((Kind.VALIDATION, step))
            or Measurement.objects.filter(job=self._job, kind=Kind.VALIDATION, step=step).first()
        )
        loss = judged.loss if judged else None
        Checkpoint.objects.update_or_create(
            job=self._job, step=step, defaults={"validation_loss": loss, "is_kept": True}
        )
        saved = {path.name.removeprefix("step-") for path in (self._folder / "checkpoints").glob("step-*")}
        steps = {int(name) for name in saved if name.isdigit()}
        Checkpoint.objects.filter(job=self._job, is_kept=True).exclude(step__in=steps | {step}).update(
            is_kept=False
        )
        # The same one saved again is no progress, or a job that always dies after it would be begun for ever.
        before = JobEvent.objects.filter(job=self._job, code="checkpoint", data__step__gte=step)
        if not before.exists():
            self._now["crashes"] = 0
            self._event("checkpoint", f"Step {step} is saved.", line)

    def _on_sample(self, line: dict[str, Any]) -> None:
        prompts = self._job.spec.get("prompts", [])
        number = prompts.index(line["prompt"]) if line["prompt"] in prompts else 0
        Sample.objects.update_or_create(
            job=self._job,
            step=line["step"],
            number=number,
            defaults={"prompt": line["prompt"], "answer": line["answer"]},
        )

    def _on_sample_failed(self, line: dict[str, Any]) -> None:
        self._event("sample_failed", f"There is no sample answer: {line['why']}", line, level=Level.WARNING)

    def _on_stopped_early(self, line: dict[str, Any]) -> None:
        message = (
            f"It stopped at step {line['step']}, since it got no better than at step {line['best_step']}."
        )
        self._event("stopped_early", message, line)

    def _event_once(self, code: str, message: str, line: dict[str, Any]) -> None:
        """A warning that a trainer repeats whenever it begins."""
        if not JobEvent.objects.filter(job=self._job, code=code, message=message).exists():
            self._event(code, message, line, level=Level.WARNING)

    def _event(self, code: str, message: str, line: dict[str, Any], *, level: str = Level.INFO) -> None:
        data = {name: value for name, value in line.items() if name not in ("type", "time")}
        JobEvent.objects.create(
            job=self._job, number=self._next_number(), level=level, code=code, message=message, data=data
        )
