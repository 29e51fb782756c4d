"""What tests of /v1/fine_tuning/jobs ask and read of a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.test import Client

from training import storage
from training.datasets.frozen import read_split
from training.models import Job

JOBS = "/v1/fine_tuning/jobs"
Ask = Callable[..., Any]


def refused(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def now(client: Client, job: str) -> Any:
    return client.get(f"{JOBS}/{job}").json()


def messages(client: Client, job: str) -> list[str]:
    """The oldest first."""
    found = client.get(f"{JOBS}/{job}/events?limit=1000").json()["data"]
    return [event["data"].get("event", event["type"]) for event in found[::-1]]


def row(job: str) -> Job:
    return Job.objects.get(pk=job.removeprefix("ftjob-"))


def splits(job: str) -> dict[str, int]:
    folder = storage.version_folder(row(job).version)  # type: ignore[arg-type]
    return {split: len(list(read_split(folder, split))) for split in ("train", "validation", "test")}
