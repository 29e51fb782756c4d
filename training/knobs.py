"""What may be asked of a job: which tasks a version's kind allows, and what its knobs may be set to. Knows no torch.

The knobs are those of `training.trainer.spec.Spec`, and the trainer checks them again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from django.utils.translation import gettext as _

from training.models import DatasetVersion, Job
from training.trainer.failures import TrainingFailure
from training.trainer.spec import RANGES, Lora, Spec, check
from webapp.core.errors import UserError

Task = Job.Task
# What the site says and nobody else: where things are, how much of the machine a job gets, what trials are judged by.
OURS = ("base", "dataset", "output", "task", "device", "threads", "fsdp", "validation_length")
_PLACES = {"base": "", "dataset": "", "output": ""}
_TASKS: dict[str, tuple[Job.Task, ...]] = {
    "chat": (Task.CHAT,),
    "translation": (Task.TRANSLATION,),
    "document": (Task.DOCUMENTS, Task.SCRATCH),
}
_LANGUAGE = (Task.CHAT, Task.DOCUMENTS, Task.TRANSLATION)


def tasks_for(version: DatasetVersion) -> list[Job.Task]:
    """What can be learnt from a version, the usual one first; nothing where we have no such training."""
    # Examples have labels or a number, and the manifest names all labels.
    return tasks_of(version.kind, has_labels=bool((version.manifest or {}).get("labels")))


def tasks_of(kind: str, *, has_labels: bool) -> list[Job.Task]:
    if kind == "labelled":
        return [Task.CLASSIFICATION if has_labels else Task.REGRESSION]
    return list(_TASKS.get(kind, ()))


def trainer_task(task: str) -> dict[str, str]:
    """The task as the trainer's spec has it. Conversations, documents and translations are one to it: language."""
    return {} if task in _LANGUAGE else {"task": str(task)}


def check_knobs(task: str, spec: dict[str, Any]) -> None:
    """Raises UserError `bad_knobs`, which names every knob that cannot be so, and what it may be."""
    wrong = wrong_knobs(task, spec)
    if wrong:
        raise UserError("bad_knobs", _("These settings cannot be used: %(why)s.") % {"why": "; ".join(wrong)})


def wrong_knobs(task: str, spec: dict[str, Any]) -> list[str]:
    """A sentence's part for each knob that cannot be so."""
    wrong = [f"{name} is not for you to set" for name in OURS if name in spec]
    given = {name: value for name, value in spec.items() if name not in OURS}
    for name, value in given.items():
        try:
            msgspec.convert({**_PLACES, name: value}, Spec)
        except msgspec.ValidationError as error:
            wrong.append(_misfit(name, value, error))
    if not wrong:
        try:
            check(msgspec.convert({**_PLACES, **trainer_task(task), **given}, Spec))
        except (TrainingFailure, msgspec.ValidationError) as error:
            wrong.append(str(error).removesuffix("."))
    return wrong


def _misfit(name: str, value: object, error: msgspec.ValidationError) -> str:
    """A sentence's part about a knob whose value is of another type."""
    if name not in Spec.__struct_fields__:
        return f"{name} is no setting"
    if name == "lora" and isinstance(value, dict):
        unknown = sorted({*value} - {*Lora.__struct_fields__})
        if unknown:
            return f"lora.{unknown[0]} is no setting"
        name = str(error).rpartition("`$.")[2].rstrip("`") or name
    if name in RANGES:
        low, high = RANGES[name]
        return f"{name} is no such number and may be from {low:g} to {high:g}"
    return f"{name} cannot be so: {str(error).partition(' - at')[0]}"
