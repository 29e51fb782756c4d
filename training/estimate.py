"""How long a job will take and how much memory, from what jobs like it took on this machine. Knows no torch.

Like it: the same base model and task, all weights or an adapter. Time goes by tokens read; memory is the most that
one of them took. Where nothing like it has succeeded here there is no estimate, rather than a guess.
"""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

from inference.models import ServedModel
from training.models import Job
from training.trainer.spec import Spec

_LATEST = 20
_SAME = ("method", "size")
_DEFAULTS = Spec(base="", dataset="", output="")


class Estimate(NamedTuple):
    seconds: float
    memory: int  # bytes
    jobs: int  # it is estimated from


def estimate(
    *, base: ServedModel | None, task: str, spec: dict[str, Any], tokens: int, examples: int
) -> Estimate | None:
    """`tokens` and `examples` of one epoch, which is the train split. `seconds` are those of the steps."""
    past = Job.objects.filter(state=Job.State.SUCCEEDED, base=base, task=task, seconds__gt=0, step__gt=0)
    like_it = [
        job
        for job in past.order_by("-finished_at")[:_LATEST]
        if all(_knob(job.spec, knob) == _knob(spec, knob) for knob in _SAME)
        and job.data.get("tokens")
        and job.epoch
    ]
    if not like_it or not tokens or not examples:
        return None
    batch, steps = _knob(spec, "batch_size"), _knob(spec, "max_steps")
    read = tokens * _knob(spec, "epochs")
    if steps and batch == "auto":
        read = steps * median(_read(job) / job.step for job in like_it)
    elif steps:
        read = steps * batch * tokens / examples
    return Estimate(
        seconds=read * median(job.seconds / _read(job) for job in like_it),
        memory=max(job.memory for job in like_it),
        jobs=len(like_it),
    )


def _read(job: Job) -> float:
    """Tokens, over all epochs."""
    return float(job.data["tokens"] * job.epoch)


def _knob(spec: dict[str, Any], name: str) -> Any:
    """As it is where nobody says otherwise."""
    return spec.get(name, getattr(_DEFAULTS, name))
