"""For tests of files, datasets and jobs: what workers would do, done here; and files to send."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from inference.models import ServedModel
from training import data_worker, job_files
from training.models import DataWork, Job


def make_base() -> ServedModel:
    """A model to begin with. Not the default: its files are not there, so that no tokens can be counted by it."""
    return ServedModel.objects.create(
        name="tiny",
        path="tiny",
        digest="0",
        architecture="llama",
        context_length=1024,
        parameters=1,
        size_bytes=1,
    )


def chat(n: int) -> dict[str, Any]:
    """An example as OpenAI has it."""
    asked = [("user", f"Where is order {n}?"), ("assistant", f"Order {n} is on its way, for day {n % 9}.")]
    return {"messages": [{"role": role, "content": text} for role, text in asked]}


def jsonl(rows: Iterable[object]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


ORDERS = jsonl(chat(n) for n in range(30))


def upload(client: Client, content: bytes = ORDERS, name: str = "orders.jsonl", **fields: Any) -> Any:
    form = {"purpose": "fine-tune", "file": SimpleUploadedFile(name, content)} | fields
    return client.post("/v1/files", form)


def uploaded(client: Client, content: bytes = ORDERS, name: str = "orders.jsonl") -> str:
    """The id of a file that has been looked at and checked."""
    answer = upload(client, content, name)
    assert answer.status_code == 200, answer.content
    work()
    return str(answer.json()["id"])


def work() -> None:
    """Whatever waits for workers of data, and the jobs that wait for these, until nothing more happens."""
    for _ in range(20):
        waiting = DataWork.objects.filter(state=DataWork.State.QUEUED).order_by("created_at").first()
        if waiting is not None:
            # Whoever tells of progress has a connection of its own, which would wait for this test's transaction.
            with patch.object(data_worker, "_LOOK_SECONDS", 3600.0):
                data_worker.run_work(waiting.id)
            continue
        before = set(Job.objects.filter(state=Job.State.VALIDATING_FILES).values_list("id", "freezing"))
        job_files.advance_all()
        after = set(Job.objects.filter(state=Job.State.VALIDATING_FILES).values_list("id", "freezing"))
        if before == after and not DataWork.objects.filter(state=DataWork.State.QUEUED).exists():
            return
    raise AssertionError("the work does not end")
