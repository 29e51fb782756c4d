"""What a job learnt becomes a model that its workspace can use. Knows nothing of how it was learnt."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from django.utils.text import slugify

from inference.model_services import Prepared, prepare_adapter, prepare_workspace_model
from inference.models import ServedModel
from training.models import Checkpoint, Job
from webapp.core.errors import UserError
from webapp.core.plain_files import require_plain

logger = logging.getLogger(__name__)
_LONGEST_PART = 64


@dataclass(frozen=True)
class Publication:
    """A job's model and its last checkpoints, which answer, too, as "NAME:ckpt-step-40". Their files are in their
    place."""

    model: Prepared
    checkpoints: list[tuple[Checkpoint, Prepared]]

    def save(self) -> ServedModel:
        """Inside the transaction that ends the job."""
        model = self.model.save()
        for checkpoint, prepared in self.checkpoints:
            checkpoint.model = prepared.save()
            checkpoint.save(update_fields=["model"])
        return model

    def discard(self) -> None:
        for prepared in (self.model, *(prepared for _, prepared in self.checkpoints)):
            prepared.discard()


def prepare(job: Job, folder: Path, checkpoints: Sequence[Checkpoint] = ()) -> Publication:
    """Copies what is to be served, and puts it into the shared storage, where there is one. Asks no database, if the
    job's workspace and base are loaded.

    The best checkpoint is the model itself. Those of all weights lie there as they are learnt and not as they are
    served, and those of classifiers without their card. Raises UserError `model_unusable`, `model_not_stored`; then
    nothing is left behind.
    """
    name, workspace, base = model_name(job), job.workspace, job.base
    _require_plain(folder)
    if not (folder / "adapter").is_dir():
        return Publication(
            prepare_workspace_model(workspace=workspace, name=name, source=folder / "model"), []
        )
    assert base is not None
    model = prepare_adapter(workspace=workspace, base=base, name=name, source=folder / "adapter")
    made = Publication(model, [])
    if model.row.kind == ServedModel.Kind.CLASSIFIER:
        return made
    for checkpoint in checkpoints:
        source = folder / "checkpoints" / f"step-{checkpoint.step:08d}"
        called = f"{name}:ckpt-step-{checkpoint.step}"
        try:
            prepared = prepare_adapter(
                workspace=workspace, base=base, name=called, source=source, is_checkpoint=True
            )
        except UserError as error:
            # The job has succeeded all the same.
            logger.warning("%s is not published: %s", called, error.message)
        else:
            made.checkpoints.append((checkpoint, prepared))
    return made


def _require_plain(folder: Path) -> None:
    """A trainer may have been taken over by what it reads, and leave links to files that are not its own.

    Raises UserError `model_unusable`.
    """
    for name in ("adapter", "model", "checkpoints"):
        try:
            require_plain(folder / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(
                "model_unusable", f"{error.filename} cannot be used: {error.strerror}."
            ) from error


def kept_checkpoints(job: Job) -> list[Checkpoint]:
    """But the best one."""
    return list(Checkpoint.objects.filter(job=job, is_kept=True).exclude(step=job.best_step))


def model_name(job: Job) -> str:
    """ "ft:BASE:WORKSPACE:SUFFIX:ID", as OpenAI names them; nobody else can have it."""
    base = job.base.name if job.base is not None else "scratch"
    suffix = re.sub(r"[^\w.-]+", "-", job.name).strip("-") or "model"
    workspace = slugify(job.workspace.name) or job.workspace_id.hex[:8]
    return ":".join(["ft", base[:_LONGEST_PART], workspace[:40], suffix[:20], job.id.hex[:8]])
