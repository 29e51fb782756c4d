"""Every write of ServedModel: what this site can answer with, and which of them conversations use. No torch here."""

from __future__ import annotations

import re
from pathlib import Path

from django.conf import settings
from django.db import transaction

from inference import catalog
from inference.formats.errors import ModelFileError
from inference.installation import InstallError, Progress, inspect_model, install
from inference.models import ServedModel
from webapp.core.errors import UserError


def pull_model(*, name: str, progress: Progress, verify: bool = False) -> ServedModel:
    """Fetches a model of the catalog, or of the hub by its id, and registers it. Raises UserError."""
    model = catalog.find(name)
    if model is None and catalog.is_hub_id(name):
        short = name.split("/")[1].lower()
        model = catalog.CatalogModel(short, name, catalog.HubSource(name), "", 1, 0, 0)
    if model is None:
        raise UserError(
            "unknown_model",
            f"{name!r} is neither in the catalog nor the id of a model on the hub; see: manage.py models list",
        )
    cache = digest_cache()
    try:
        folder = install(model, settings.MODELS_DIR, progress=progress, digest_cache=cache, verify=verify)
        return register_model(name=model.name, path=folder)
    except InstallError as error:
        raise UserError("model_not_installed", str(error)) from error


def register_model(*, name: str, path: Path) -> ServedModel:
    """A row for the model at `path`, or the existing one brought up to date. The first becomes the default."""
    if not catalog.is_valid_name(name):
        raise UserError(
            "bad_model_name",
            f"{name!r} cannot be a model's name: use letters, digits, dots, dashes and underscores.",
        )
    path = path.expanduser().resolve()
    try:
        facts = inspect_model(path, digest_cache=digest_cache())
    except ModelFileError as error:
        raise UserError("model_unusable", str(error)) from error
    models_folder = settings.MODELS_DIR.resolve()
    stored = path.relative_to(models_folder) if path.is_relative_to(models_folder) else path
    with transaction.atomic():
        first = not ServedModel.objects.select_for_update().filter(is_default=True).exists()
        model, _made = ServedModel.objects.update_or_create(
            name=name,
            defaults={
                "path": str(stored),
                "digest": facts.digest,
                "architecture": facts.architecture,
                "context_length": facts.context_length,
                "parameters": facts.parameters,
                "size_bytes": facts.size_bytes,
            },
        )
        if first:
            model.is_default = True
            model.save(update_fields=["is_default"])
    return model


def set_default_model(*, name: str) -> ServedModel:
    """What new replies are answered with, once the workers have been restarted. Raises UserError."""
    with transaction.atomic():
        model = ServedModel.objects.select_for_update().filter(name=name).first()
        if model is None:
            raise UserError("unknown_model", f"No model is called {name!r}; see: manage.py models list")
        ServedModel.objects.filter(is_default=True).exclude(pk=model.pk).update(is_default=False)
        model.is_default = True
        model.save(update_fields=["is_default"])
    return model


def suggested_name(path: Path) -> str:
    """A model's name made of its file's or folder's."""
    stem = path.stem if path.suffix.lower() == ".gguf" else path.name
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")


def digest_cache() -> Path:
    """Where digests are remembered; the inference worker uses the same."""
    return Path(settings.FLYWHEEL_HOME) / "cache"
