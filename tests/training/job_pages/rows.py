"""Rows of jobs as workers leave them, for tests of the pages that show them."""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.utils import timezone

from inference.models import ServedModel
from training import storage
from training.models import (
    Checkpoint,
    Dataset,
    DatasetVersion,
    Job,
    JobEvent,
    Measurement,
    Sample,
    Search,
)
from webapp.accounts.models import User, Workspace


def make_base() -> ServedModel:
    return ServedModel.objects.create(
        name="tiny-instruct", path="tiny", digest="0" * 64, architecture="llama", context_length=2048,
        parameters=135_000_000, size_bytes=1,
    )  # fmt: skip


def make_version(dataset: Dataset, kind: str = "chat", **fields: Any) -> DatasetVersion:
    number = dataset.versions.count() + 1
    version = DatasetVersion.objects.create(
        dataset=dataset, number=number, state="ready", recipe={}, parent="0" * 64, kind=kind,
        content_hash=f"{number:064d}", train=1200, validation=60, test=60, manifest={"labels": ["ham", "spam"]},
        created_by=dataset.created_by,
    )  # fmt: skip
    folder = storage.version_folder(version)
    folder.mkdir(parents=True)
    asked = [("user", "Where is\n my order?"), ("assistant", "On its way.")]
    line = {"kind": "chat", "messages": [{"role": role, "content": text} for role, text in asked]}
    (folder / "validation.jsonl").write_text(json.dumps(line) + "\n" if kind == "chat" else "")
    (folder / "train.jsonl").write_text("")
    DatasetVersion.objects.filter(pk=version.pk).update(**fields)
    version.refresh_from_db()
    return version


def make_job(
    workspace: Workspace, user: User, base: ServedModel | None, version: DatasetVersion | None, **fields: Any
) -> Job:
    usual: dict[str, Any] = {
        "name": "support", "task": "chat", "data_label": "Support, 1", "data_hash": "0" * 64, "spec": {"epochs": 2.0},
        "sent_at": timezone.now(),
    }  # fmt: skip
    return Job.objects.create(
        workspace=workspace, created_by=user, base=base, version=version, **usual | fields
    )


def make_search(workspace: Workspace, user: User, **fields: Any) -> Search:
    usual: dict[str, Any] = {
        "name": "tone", "kind": "search",
        "parameters": {
            "version": str(uuid.UUID(int=1)), "base": None, "data_label": "Support, 1", "base_name": "tiny-instruct",
            "task": "chat", "spec": {}, "trials": 8,
            "space": {
                "learning_rate": {"low": 0.00001, "high": 0.01, "log": True},
                "lora.r": {"low": 4, "high": 64, "log": False},
                "optimizer": {"choices": ["adamw", "sgd"]},
            },
        },
    }  # fmt: skip
    return Search.objects.create(workspace=workspace, created_by=user, **usual | fields)


def make_trials(search: Search, base: ServedModel, version: DatasetVersion) -> list[Job]:
    """Six of eight: two that succeeded, one stopped early, one that failed, a better one, and one that runs."""
    lived: list[dict[str, Any]] = [
        {"state": "succeeded", "best_validation_loss": 1.9},
        {"state": "succeeded", "best_validation_loss": 1.62},
        {"state": "cancelled", "error_code": "pruned", "best_validation_loss": 2.4},
        {"state": "failed", "error_code": "oom"},
        {"state": "succeeded", "best_validation_loss": 1.487},
        {"state": "running", "step": 30, "steps": 100, "best_validation_loss": 1.4},
    ]
    assert search.created_by is not None
    return [
        make_job(
            search.workspace, search.created_by, base, version, name=f"{search.name} {number}", search=search,
            number=number, finished_at=None if fields["state"] == "running" else timezone.now(), spec={
                "learning_rate": 0.00012345 * number, "lora": {"r": 4 * number},
                "optimizer": "sgd" if number % 2 else "adamw",
            }, **fields,
        )
        for number, fields in enumerate(lived, 1)
    ]  # fmt: skip


RUNNING: dict[str, Any] = {
    "state": "running", "stage": "training", "step": 168, "steps": 400, "epoch": 0.84, "eta": 754.0, "rate": 431.0,
    "memory": 2_340_000_000, "seconds": 612.0, "base_validation_loss": 2.4321,
    "best_validation_loss": 1.7, "best_step": 160,
    "data": {"examples": 1200, "refused": 3, "tokens": 90_000, "trained_tokens": 41_000},
    "chosen": [
        {"knob": "learning_rate", "value": 0.0005, "why": "For an adapter of a small model."},
        {"knob": "batch_size", "value": 16, "why": "1200 examples."},
    ],
}  # fmt: skip


def learn(job: Job, steps: int, every: int = 40) -> None:
    """Measurements of so many steps, with a checkpoint, an evaluation and samples now and then."""
    Measurement.objects.bulk_create(
        Measurement(
            job=job, kind="train", step=n, loss=0.9 + 2 / n**0.4, values={"learning_rate": 0.0005, "epoch": n / 200}
        )
        for n in range(1, steps + 1)
    )  # fmt: skip
    questions = ["Where is my order?", "Who are you?"]
    for step in range(0, steps + 1, every):
        loss = 1.2 + 2 / (step + 3) ** 0.4
        Measurement.objects.create(job=job, kind="validation", step=step, loss=loss)
        if step:
            Checkpoint.objects.create(
                job=job, step=step, validation_loss=loss, is_kept=step > steps - 3 * every
            )
        for number, question in enumerate(questions):
            said = f"At step {step}: your order is on its way, and you will have it on Friday."
            Sample.objects.create(
                job=job, step=step, number=number, prompt=question, answer=said if step else "I am a model."
            )
    for number, (level, message) in enumerate(
        [("info", "It waits for a worker."), ("info", "It begins."), ("warn", "The learning rate is high.")],
        1,
    ):
        JobEvent.objects.create(job=job, number=number, level=level, code="x", message=message)


def classified(kind: str = "multiclass") -> dict[str, Any]:
    """An evaluation.json, as training.trainer.evaluation describes it."""
    labels = ["billing", "delivery", "returns", "thanks"] if kind != "binary" else ["ham", "spam"]
    n = len(labels)
    return {
        "task": "classification", "kind": kind, "split": "test", "fold": 0, "folds": 0, "examples": 240, "refused": 0,
        "step": 60, "labels": labels, "accuracy": 0.8625, "reasons": {},
        "macro": {"precision": 0.85, "recall": 0.84, "f1": 0.845, "roc_auc": 0.951},
        "majority": {"labels": [labels[0]], "accuracy": 0.31},
        "classes": [
            {"label": label, "support": 60, "precision": 0.9 - i / 50, "recall": 0.8 + i / 50, "f1": 0.85,
             "reasons": {}, "roc_auc": 0.95 - i / 60, "confusion": [[170, 10], [8, 52]],
             "roc": [[x / 20, (x / 20) ** (0.15 + i / 9)] for x in range(21)]}
            for i, label in enumerate(labels)
        ],
        "confusion": None if kind == "multilabel" else [[52 if x == y else 2 + x for x in range(n)] for y in range(n)],
    }  # fmt: skip


REGRESSED: dict[str, Any] = {
    "task": "regression", "kind": "regression", "split": "validation", "fold": 0, "folds": 0, "examples": 80,
    "refused": 0, "step": 40, "mse": 2.1, "rmse": 1.45, "mae": 1.1, "r2": None, "mean_mse": 7.6,
    "scatter": [[n / 10, n / 10 + (n % 7 - 3) / 4] for n in range(80)],
    "reasons": {"r2": "All numbers are the same."},
}  # fmt: skip
