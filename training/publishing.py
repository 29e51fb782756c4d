"""What a job learnt becomes a model that its workspace can use. Knows nothing of how it was learnt."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from django.utils.text import slugify

from inference.model_services import add_adapter, add_workspace_model
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


def publish_checkpoints(job: Job, model: ServedModel, folder: Path) -> None:
    """Inside the transaction that ends the job: its last checkpoints answer, too, as "NAME:ckpt-step-40".

    The best one is the model itself. Those of all weights lie there as they are learnt and not as they are served, and
    those of classifiers without their card.
    """
    if model.base is None or model.kind == ServedModel.Kind.CLASSIFIER:
        return
    for checkpoint in Checkpoint.objects.filter(job=job, is_kept=True).exclude(step=job.best_step):
        name = f"{model.name}:ckpt-step-{checkpoint.step}"
        source = folder / "checkpoints" / f"step-{checkpoint.step:08d}"
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
