"""The model files: there, whole, and of a kind the engine knows. Reads headers only, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from django.db import DatabaseError

from inference import catalog, model_storage
from inference.engine.config_folder import config_from_folder
from inference.engine.config_gguf import config_from_gguf
from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import read_gguf
from inference.formats.model_files import find_model
from inference.formats.safetensors_file import read_headers
from inference.installation import inspect_adapter
from inference.models import ServedModel
from webapp.core import contents, shared_storage
from webapp.core.shared_storage import StorageError
from webapp.ops.doctor.finding import Finding, ok, problem, warning


def check() -> Iterator[Finding]:
    try:
        models = list(ServedModel.objects.filter(removed_at=None).select_related("base"))
    except DatabaseError:
        return  # the database's own finding says why
    if not models:
        advice = f"Run: python manage.py models pull {catalog.DEMO.name}"
        yield problem("models", "No model is installed.", advice)
    elif not any(model.is_default for model in models):
        yield problem("models", "No model is the default one.", "Run: python manage.py models list")
    for model in models:
        yield look_at(model)


def look_at(model: ServedModel) -> Finding:
    if model.workspace_id is None:
        advice = f"Run: python manage.py models pull {model.name}, or models add with a good copy."
    else:
        advice = f"Restore {model.location} from a backup, or train it again."
    try:
        if model.is_stored:
            size = contents.manifest_of(model_storage.CONTENTS, model.manifest).size
        elif shared_storage.is_shared():
            return warning(
                "models",
                f"{model.name} is not in the shared storage: other hosts cannot serve it.",
                "Run on the host that has it: python manage.py models publish",
            )
        elif model.base is None:
            size = read_header(model.location)
        else:
            size = inspect_adapter(model.location, model.base.location).size_bytes
    except StorageError as error:
        return problem("models", f"{model.name}: {error}", advice)
    except ModelFileError as error:
        return problem("models", f"{model.name}: {error}", advice)
    except OSError as error:
        return problem("models", f"{model.name}: {error.filename} cannot be read ({error.strerror}).", advice)
    if model.is_stored:
        return ok(
            "models", f"{model.name} is in the shared storage ({size / 1e6:,.0f} MB, {model.architecture})."
        )
    if size != model.size_bytes:
        return warning(
            "models",
            f"{model.name} has {size:,} bytes, but had {model.size_bytes:,} when it was added: its files changed.",
            advice,
        )
    return ok("models", f"{model.name} is whole ({size / 1e6:,.0f} MB, {model.architecture}).")


def read_header(path: Path) -> int:
    """Reads what says how a model is built and where its tensors lie; returns its size in bytes.

    Raises ModelFileError for a file that is missing, truncated, or of an architecture the engine does not know.
    """
    files = find_model(path)
    if files.gguf:
        config_from_gguf(read_gguf(files.gguf))
    else:
        config_from_folder(files.folder)
        read_headers(files.weights)
    return files.size_bytes
