"""How long a job will take and how much memory, from what jobs like it took here. Knows no torch.

Like it: the same base model and task, all weights or an adapter, on the kind of device that the last of them had. Time
is the clock's, of jobs that ran through in one go: what comes before the first figure (checking the data, loading) is
as it was, and what comes after (steps, evaluations, samples, saving) goes by the tokens read. Memory is the most that
one of them took. Where nothing like it has succeeded here there is no estimate, rather than a guess.
"""

from __future__ import annotations

from datetime import datetime
from statistics import median
from typing import Any, NamedTuple

from django.db.models import Min

from inference.models import ServedModel
from training.datasets.report import Histogram
from training.models import Job
from training.trainer.spec import MOST_LENGTH, SCRATCH_LENGTH, Spec

_LATEST = 20
_SAME = ("method", "size")
_DEFAULTS = Spec(base="", dataset="", output="")


class Estimate(NamedTuple):
    seconds: float  # from the moment that a worker begins it
    memory: int  # bytes
    jobs: int  # it is estimated from


class Took(NamedTuple):
    """A past job."""

    read: float  # tokens, over all epochs
    step: float  # of them in a step
    before: float  # seconds until its first figure
    rest: float  # seconds from there to its end
    memory: int


def estimate(
    *,
    base: ServedModel | None,
    task: str,
    spec: dict[str, Any],
    lengths: Histogram | None,
    examples: int,
    divided: bool = False,
) -> Estimate | None:
    """`lengths`: of examples like these, in tokens; `examples` of one epoch, which is the train split; `divided`: too
    long ones are divided and not cut."""
    past = Job.objects.filter(
        state=Job.State.SUCCEEDED, base=base, task=task, attempt=1, step__gt=0, started_at__isnull=False
    )
    latest = past.annotate(first=Min("measurements__created_at")).order_by("-finished_at")[:_LATEST]
    like_it = [
        job
        for job in latest
        if all(_knob(job.spec, knob) == _knob(spec, knob) for knob in _SAME)
        and job.data.get("tokens")
        and job.epoch
    ]
    if not like_it or lengths is None or not examples:
        return None
    device = like_it[0].data.get("device")
    took = [_took(job, job.first) for job in like_it if job.data.get("device") == device]
    longest = _knob(spec, "max_length")
    if longest == "auto":
        most = SCRATCH_LENGTH if base is None else MOST_LENGTH[device or "cpu"]
        longest = min(most, base.context_length) if base is not None else most
    tokens = examples * (lengths.mean if divided else mean_length(lengths, longest))
    batch, steps = _knob(spec, "batch_size"), _knob(spec, "max_steps")
    read = tokens * _knob(spec, "epochs")
    if steps and batch == "auto":
        read = steps * median(each.step for each in took)
    elif steps:
        read = steps * batch * tokens / examples
    return Estimate(
        seconds=median(each.before for each in took) + read * median(each.rest / each.read for each in took),
        memory=max(each.memory for each in took),
        jobs=len(took),
    )


def mean_length(lengths: Histogram, longest: int) -> float:
    """Tokens that are read of an example, of which the rest is cut off."""
    if lengths.largest <= longest:
        return lengths.mean
    middles = [(low + high) / 2 for low, high in zip(lengths.edges, lengths.edges[1:], strict=False)]
    whole = sum(count * middle for count, middle in zip(lengths.counts, middles, strict=True))
    read = sum(count * min(middle, longest) for count, middle in zip(lengths.counts, middles, strict=True))
    return lengths.mean * read / whole if whole else lengths.mean


def _took(job: Job, first: datetime | None) -> Took:
    assert job.started_at is not None
    assert job.finished_at is not None
    read = float(job.data["tokens"] * job.epoch)
    begun = first or job.started_at
    return Took(
        read=read,
        step=read / job.step,
        before=(begun - job.started_at).total_seconds(),
        rest=(job.finished_at - begun).total_seconds(),
        memory=job.memory,
    )


def _knob(spec: dict[str, Any], name: str) -> Any:
    """As it is where nobody says otherwise."""
    return spec.get(name, getattr(_DEFAULTS, name))
