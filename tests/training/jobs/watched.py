"""What tests of a training worker ask and read of a job whose trainer is scripted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.training.jobs.scripted_trainer import STEPS, loss
from training.models import Job

State = Job.State
Trainer = Callable[..., None]
Execute = Callable[..., Any]
SPEC = {"prompts": ["Hi?"]}


def now(job: Job) -> Job:
    return Job.objects.get(id=job.id)


def at_step(step: int, do: Callable[[Job], object]) -> Callable[[Job], None]:
    """`do`, once the job has come that far."""
    done: list[bool] = []

    def look(job: Job) -> None:
        if job.step >= step and not done:
            done.append(True)
            do(job)

    return look


def rows(job: Job) -> dict[str, Any]:
    """What pages show of how a job went."""
    return {
        "losses": list(job.measurements.filter(kind="train").values_list("step", "loss")),
        "validation": list(job.measurements.filter(kind="validation").values_list("step", "loss")),
        "samples": list(job.samples.values_list("step", "prompt", "answer")),
        "refused": job.events.filter(code="refused").count(),
        "chosen": job.chosen,
        "data": job.data,
    }


WHOLE = {
    "losses": [(step, loss(step)) for step in range(1, STEPS + 1)],
    "validation": [(0, 5.0), (4, loss(4) + 0.1), (8, loss(8) + 0.1)],
    "samples": [(0, "Hi?", "(base)"), (4, "Hi?", "(step 4)"), (8, "Hi?", "(step 8)")],
    "refused": 1,
    "chosen": [{"knob": "batch_size", "value": 4, "why": "24 examples."}],
    "data": {"examples": 24, "trained_tokens": 100},
}
