"""What the page of a job shows, in parts: the same for the page and for what the websocket puts in their place.

Everything is made from rows, so that a page that is loaded again lacks nothing. Knows nothing of sockets and requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from django.db.models import Avg, F, Max, Min
from django.template.loader import render_to_string

from training import job_charts, job_life, job_words
from training.job_evaluation import evaluation_context
from training.job_forms import PROMPTLESS
from training.models import Checkpoint, Job, JobEvent, Measurement, Sample

# In the order of the page.
_NAMES = ("state", "try", "figures", "chart", "evaluation", "samples", "checkpoints", "settings", "events")
TEMPLATES = {name: f"training/job_{name}.html" for name in _NAMES}
MOST_POINTS = 300
MOST_EVENTS = 200
MOST_CHECKPOINTS = 100  # and as many answers to each prompt
Points = list[tuple[float, float]]


class Answers(NamedTuple):
    """What was said to one prompt: by the base model (at step 0), by what came of it or last, and at other steps."""

    prompt: str
    base: Sample | None
    shown: Sample | None
    others: list[Sample]  # newest first
    is_best: bool  # `shown` is what whoever tries the model gets, and others may be later


def parts(job: Job) -> dict[str, str]:
    """The HTML of each part, in the active language."""
    context = job_context(job)
    return {name: render_to_string(template, context) for name, template in TEMPLATES.items()}


def job_context(job: Job) -> dict[str, Any]:
    saved = Checkpoint.objects.filter(job=job).order_by("-step")
    checkpoints = list(saved[:MOST_CHECKPOINTS])
    train, validation = losses(job, Measurement.Kind.TRAIN), losses(job, Measurement.Kind.VALIDATION)
    last_train = Measurement.objects.filter(job=job, kind=Measurement.Kind.TRAIN).order_by("-step").first()
    return {
        "job": job,
        "status": job_words.job_status(job),
        "stage": job_words.stage_name(job),
        "next_step": job_words.next_step(job),
        "failure": job_words.failure(job),
        "is_hopeless": job_words.is_hopeless(job),
        "kept": job_words.what_was_kept(job, job_life.last_saved(job) or None),
        "chart": job_charts.losses(train, validation, job.base_validation_loss)
        if train or validation
        else "",
        "last_train": last_train,
        "last_validation": validation[-1] if validation else None,
        "validations": validation[::-1],
        "gain": _gain(job),
        "answers": list(answers(job)),
        "checkpoints": checkpoints,
        "left_out": len(checkpoints) == MOST_CHECKPOINTS and saved.count() > MOST_CHECKPOINTS,
        "settings": job_words.settings(job),
        "judges": job.task in PROMPTLESS,
        "events": [
            (
                event,
                job_words.in_labels(job_words.in_reader_language(event.message)),
                job_words.event_tone(event),
            )
            for event in JobEvent.objects.filter(job=job).order_by("-number")[:MOST_EVENTS]
        ],
        **evaluation_context(job.evaluation),
    }


def losses(job: Job, kind: str) -> Points:
    """The loss by step, as means of as many steps as leave at most MOST_POINTS of them."""
    measured = Measurement.objects.filter(job=job, kind=kind).order_by()
    ends = measured.aggregate(first=Min("step"), last=Max("step"))
    if ends["first"] is None:
        return []
    width = (ends["last"] - ends["first"]) // MOST_POINTS + 1
    grouped = measured.values(place=F("step") / width).annotate(at=Max("step"), mean=Avg("loss"))
    return [(row["at"], row["mean"]) for row in grouped.order_by("place")]


def _gain(job: Job) -> int | None:
    """By how many per cent the best validation loss is below the base model's; negative where it is above."""
    base, best = job.base_validation_loss, job.best_validation_loss
    return round(100 * (base - best) / base) if base and best is not None else None


def answers(job: Job) -> Iterator[Answers]:
    asked = Sample.objects.filter(job=job).order_by("-step").values("step").distinct()[:MOST_CHECKPOINTS]
    best = job.best_step if job.state == Job.State.SUCCEEDED else 0
    steps = {0, best, *asked.values_list("step", flat=True)}
    said = Sample.objects.filter(job=job, step__in=steps).order_by("number", "-step")
    for _number, group in groupby(said, lambda sample: sample.number):
        samples = list(group)
        base = samples[-1] if samples[-1].step == 0 else None
        learnt = [sample for sample in samples if sample.step > 0]
        shown = next((sample for sample in learnt if sample.step == best), learnt[0] if learnt else None)
        others = [sample for sample in learnt if sample is not shown]
        yield Answers(samples[0].prompt, base, shown, others, shown is not None and shown.step == best)
