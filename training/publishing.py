"""What a job learnt becomes a model that its workspace can use. Knows nothing of how it was learnt."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from django.utils.text import slugify

from inference.formats.errors import ModelFileError
from inference.model_services import add_adapter, add_workspace_model, publish_files
from inference.models import ServedModel
from training.models import Checkpoint, Job
from webapp.core.errors import UserError

logger = logging.getLogger(__name__)
_LONGEST_PART = 64


def publish(job: Job, folder: Path) -> ServedModel:
    """Inside the transaction that ends the job.

    Raises UserError `model_unusable`, `model_not_stored`; then nothing is left behind.
    """
    name, workspace = model_name(job), job.workspace
    if (folder / "adapter").is_dir():
        assert job.base is not None
        return add_adapter(workspace=workspace, base=job.base, name=name, source=folder / "adapter")
    return add_workspace_model(workspace=workspace, name=name, source=folder / "model")


def uploads_of(job: Job, folder: Path) -> list[tuple[str, Path]]:
    """What `publish` and `publish_checkpoints` will add, with its name and its folder."""
    name, is_adapter = model_name(job), (folder / "adapter").is_dir()
    uploads = [(name, folder / ("adapter" if is_adapter else "model"))]
    if is_adapter:
        uploads += [(checkpoint_name(name, each), source) for each, source in _kept_checkpoints(job, folder)]
    return uploads


def send_ahead(uploads: list[tuple[str, Path]]) -> None:
    """Puts it into the shared storage, where there is one, ahead of the transaction that adds the models: that finds it
    there, and nobody waits for it meanwhile. Asks no database. What goes wrong is found, and said, again then."""
    for name, source in uploads:
        try:
            publish_files(name, source)
        except (UserError, ModelFileError) as error:
            logger.warning("%s is not sent ahead: %s", name, error)


def checkpoint_name(name: str, checkpoint: Checkpoint) -> str:
    return f"{name}:ckpt-step-{checkpoint.step}"


def _kept_checkpoints(job: Job, folder: Path) -> list[tuple[Checkpoint, Path]]:
    """But the best one, with its folder."""
    kept = Checkpoint.objects.filter(job=job, is_kept=True).exclude(step=job.best_step)
    return [(each, folder / "checkpoints" / f"step-{each.step:08d}") for each in kept]


def publish_checkpoints(job: Job, model: ServedModel, folder: Path) -> None:
    """Inside the transaction that ends the job: its last checkpoints answer, too, as "NAME:ckpt-step-40".

    The best one is the model itself. Those of all weights lie there as they are learnt and not as they are served, and
    those of classifiers without their card.
    """
    if model.base is None or model.kind == ServedModel.Kind.CLASSIFIER:
        return
    for checkpoint, source in _kept_checkpoints(job, folder):
        name = checkpoint_name(model.name, checkpoint)
        try:
            checkpoint.model = add_adapter(
                workspace=job.workspace, base=model.base, name=name, source=source, is_checkpoint=True
            )
        except UserError as error:
            # The job has succeeded all the same.
            logger.warning("%s is not published: %s", name, error.message)
            continue
        checkpoint.save(update_fields=["model"])


def model_name(job: Job) -> str:
    """ "ft:BASE:WORKSPACE:SUFFIX:ID", as OpenAI names them; nobody else can have it."""
    base = job.base.name if job.base is not None else "scratch"
    suffix = re.sub(r"[^\w.-]+", "-", job.name).strip("-") or "model"
    workspace = slugify(job.workspace.name) or job.workspace_id.hex[:8]
    return ":".join(["ft", base[:_LONGEST_PART], workspace[:40], suffix[:20], job.id.hex[:8]])
