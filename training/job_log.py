"""What happened to a job and what was measured of it, as one list, the newest first. Knows nothing of requests.

Events and measurements are numbered together, so a place in the list stays what it is, whatever comes after it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple

from training.models import Job, JobEvent, Measurement

# Of a step's line, what is told with its loss.
_TOLD = ("learning_rate", "epoch", "trained_tokens")


class Entry(NamedTuple):
    number: int
    created_at: datetime
    level: str
    kind: Literal["message", "metrics"]
    message: str
    data: dict[str, Any]


def page_of_log(job: Job, *, before: int | None, size: int) -> tuple[list[Entry], bool]:
    """Those numbered below `before`, or the newest, and whether there are more."""
    events = JobEvent.objects.filter(job=job).order_by("-number")
    measured = Measurement.objects.filter(job=job, number__isnull=False).order_by("-number")
    if before is not None:
        events, measured = events.filter(number__lt=before), measured.filter(number__lt=before)
    both = [_of_event(event) for event in events[: size + 1]]
    both += [_of_measurement(job, each) for each in measured[: size + 1]]
    both.sort(key=lambda entry: -entry.number)
    return both[:size], len(both) > size


def _of_event(event: JobEvent) -> Entry:
    return Entry(
        event.number,
        event.created_at,
        event.level,
        "message",
        event.message,
        {**event.data, "event": event.code},
    )


def _of_measurement(job: Job, measured: Measurement) -> Entry:
    of = f"{measured.step}/{job.steps}" if job.steps else str(measured.step)
    data: dict[str, Any] = {"step": measured.step, "total_steps": job.steps or None}
    if measured.kind == Measurement.Kind.TRAIN:
        what = "training"
        data |= {"train_loss": measured.loss} | {name: measured.values.get(name) for name in _TOLD}
    else:
        # Always of the whole split, which OpenAI calls full.
        what = "validation"
        data |= {"valid_loss": measured.loss, "full_valid_loss": measured.loss}
    message = f"Step {of}: {what} loss={measured.loss:.4f}"
    at = measured.created_at or job.created_at
    return Entry(measured.number or 0, at, JobEvent.Level.INFO, "metrics", message, data)
