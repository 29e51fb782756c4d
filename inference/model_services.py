"""Every write of ServedModel: what this site can answer with, and which of them conversations use. No torch here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from inference import catalog, local_models, model_storage, mounted
from inference.formats.classifier_card import CARD_FILE, SCORE_FILE
from inference.formats.errors import ModelFileError
from inference.formats.model_files import find_model
from inference.installation import (
    InstallError,
    ModelFacts,
    Progress,
    inspect_adapter,
    inspect_model,
    install,
)
from inference.local_models import NotHere
from inference.models import Generation, ServedModel
from webapp.accounts.models import Workspace
from webapp.core import clock, shared_storage
from webapp.core.errors import UserError
from webapp.core.shared_storage import NotMounted, StorageError

# "ft:BASE:WORKSPACE:SUFFIX:ID", or what an operator calls one.
_TRAINED_NAME = re.compile(r"[^\s\x00-\x1f\x7f/](?:[^\x00-\x1f\x7f/]{0,198}[^\s\x00-\x1f\x7f/])?")


def pull_model(*, name: str, progress: Progress, verify: bool = False) -> ServedModel:
    """Fetches a model of the catalog, or of the hub by its id, and registers it. Raises UserError."""
    model = catalog.find(name) or _of_the_hub(name)
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


def _of_the_hub(repository: str) -> catalog.CatalogModel | None:
    """None where it is no name of the hub's. Raises UserError where its short name is another's in the catalog."""
    if not catalog.is_hub_id(repository):
        return None
    short = repository.split("/")[1].lower()
    known = catalog.find(short)
    if known is None:
        return catalog.CatalogModel(short, repository, catalog.HubSource(repository), "", 1, 0, 0)
    if str(known.source).lower() != str(catalog.HubSource(repository)).lower():
        raise UserError(
            "model_not_installed",
            f"{short} is {known.source} in the catalog: fetch {repository} elsewhere and add it with `models add PATH "
            "--name NAME`.",
        )
    return known


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
        manifest = publish_files(name, path)
    except ModelFileError as error:
        raise UserError("model_unusable", str(error)) from error
    models_folder = settings.MODELS_DIR.resolve()
    stored = path.relative_to(models_folder) if path.is_relative_to(models_folder) else path
    kind = _kind(facts)
    with transaction.atomic():
        first = not ServedModel.objects.select_for_update().filter(is_default=True).exists()
        model, _made = ServedModel.objects.update_or_create(
            name=name,
            defaults={
                "kind": kind,
                "path": str(stored),
                "manifest": manifest,
                "digest": facts.digest,
                "architecture": facts.architecture,
                "context_length": facts.context_length,
                "parameters": facts.parameters,
                "size_bytes": facts.size_bytes,
            },
        )
        if first and kind != ServedModel.Kind.CLASSIFIER:
            model.is_default = True
            model.save(update_fields=["is_default"])
    return model


def publish_models() -> list[ServedModel]:
    """Puts what is on this host alone into the shared storage, as when a site gets one; what was put there.

    What came of training is then there alone, as where there was a storage from the first; other files stay.

    Raises UserError `no_storage`, `model_not_stored` and `storage_not_mounted`.
    """
    if not shared_storage.is_shared():
        raise UserError("no_storage", "There is no shared storage: set STORAGE_URL.")
    published = []
    for model in ServedModel.objects.filter(manifest="", removed_at=None):
        if not model.location.exists():
            continue  # it is on another host
        try:
            model.manifest = publish_files(model.name, model.location)
        except ModelFileError as error:
            raise UserError("model_unusable", f"{model.name}: {error}") from error
        model.save(update_fields=["manifest"])
        if model.workspace_id is not None:
            model_storage.remove(model.original)
        published.append(model)
    return published


def publish_files(name: str, path: Path) -> str:
    """Puts the files of a model, or of an adapter, into the shared storage, which takes its time; done twice, it costs
    their hashes. The digest of their manifest; "" where there is no shared storage.

    Raises ModelFileError, and UserError `model_not_stored`, `storage_not_mounted`.
    """
    if not shared_storage.is_shared():
        return ""
    adapter = _adapter_files(path)
    try:
        mounted.check_and_mark()
        return model_storage.publish(name, adapter if adapter[0].is_file() else _files_of(path))
    except (StorageError, OSError) as error:
        raise _not_stored(error) from error


def _not_stored(error: StorageError | OSError) -> UserError:
    if isinstance(error, NotMounted):
        return UserError("storage_not_mounted", str(error))
    if isinstance(error, StorageError):
        return UserError("model_not_stored", str(error))
    return UserError("model_not_stored", f"The model could not be stored: {error.strerror}.")


def _adapter_files(folder: Path) -> list[Path]:
    return [
        *(folder / name for name in ("adapter_config.json", "adapter_model.safetensors")),
        *_there(folder, CARD_FILE),
    ]


def _files_of(path: Path) -> list[Path]:
    """Of a whole model. Raises ModelFileError."""
    found = find_model(path)
    # How it is sampled by default is no part of a GGUF.
    beside = _there(found.folder, "generation_config.json", CARD_FILE, SCORE_FILE)
    return [*found.content, *(file for file in beside if file not in found.content)]


def set_default_model(*, name: str) -> ServedModel:
    """What new replies are answered with, once the workers have been restarted. Raises UserError."""
    with transaction.atomic():
        model = ServedModel.objects.select_for_update().filter(name=name).first()
        if model is None:
            raise UserError("unknown_model", f"No model is called {name!r}; see: manage.py models list")
        if model.workspace_id is not None:
            raise UserError("model_unusable", f"{name} is a workspace's own, and the default is everybody's.")
        if model.kind == ServedModel.Kind.CLASSIFIER:
            raise UserError("model_unusable", f"{name} judges texts and writes none.")
        ServedModel.objects.filter(is_default=True).exclude(pk=model.pk).update(is_default=False)
        model.is_default = True
        model.save(update_fields=["is_default"])
    return model


@dataclass(frozen=True)
class Prepared:
    """A model whose files are in their place, and the row that will name them. They are copied, read and sent before
    the transaction that adds it: for as long as that takes nobody waits for a lock."""

    row: ServedModel

    def save(self) -> ServedModel:
        """Adds it: belongs into the transaction that says where it came from. Raises UserError `bad_model_name`."""
        if ServedModel.objects.filter(name=self.row.name).exists():
            raise UserError("bad_model_name", f"There is a model called {self.row.name!r} already.")
        with transaction.atomic():
            self.row.save()
        return self.row

    def discard(self) -> None:
        """Removes its files, where it was not added after all."""
        model_storage.remove_kept(self.row.kept)


def add_adapter(
    *, workspace: Workspace, base: ServedModel, name: str, source: Path, is_checkpoint: bool = False
) -> ServedModel:
    """`prepare_adapter` and `save` in one. Raises what they raise; then nothing is left behind."""
    prepared = prepare_adapter(
        workspace=workspace, base=base, name=name, source=source, is_checkpoint=is_checkpoint
    )
    return _saved(prepared)


def add_workspace_model(*, workspace: Workspace, name: str, source: Path) -> ServedModel:
    """`prepare_workspace_model` and `save` in one. Raises what they raise; then nothing is left behind."""
    return _saved(prepare_workspace_model(workspace=workspace, name=name, source=source))


def _saved(prepared: Prepared) -> ServedModel:
    try:
        return prepared.save()
    except BaseException:
        prepared.discard()
        raise


def prepare_adapter(
    *, workspace: Workspace, base: ServedModel, name: str, source: Path, is_checkpoint: bool = False
) -> Prepared:
    """Keeps a copy of a PEFT LoRA folder, to be answerable in this workspace. One with a classifier.json judges texts.

    Asks no database, but for `mounted.check`. Raises UserError `bad_model_name`, `model_unusable` (says what is wrong
    with the files), `model_not_stored` and `storage_not_mounted`; then nothing is left behind.
    """
    is_whole = base.base_id is None and base.kind != ServedModel.Kind.CLASSIFIER
    if base.workspace_id not in (None, workspace.pk) or not is_whole or base.removed_at:
        raise UserError("model_unusable", f"{base.name} is no model that an adapter could be for.")

    def row(folder: Path) -> ServedModel:
        with local_models.hold(base) as base_folder:
            facts = inspect_adapter(folder, base_folder)
        return ServedModel(
            base=base,
            kind=ServedModel.Kind.CLASSIFIER if facts.is_classifier else base.kind,
            is_checkpoint=is_checkpoint,
            architecture=base.architecture,
            context_length=base.context_length,
            parameters=base.parameters,
            size_bytes=facts.size_bytes,
            digest=facts.digest,
        )

    return _prepared(workspace, name, model_storage.ADAPTERS, _adapter_files(source), row)


def prepare_workspace_model(*, workspace: Workspace, name: str, source: Path) -> Prepared:
    """The same for a whole model: a Hugging Face folder or a GGUF. Raises as `prepare_adapter` does."""

    def row(folder: Path) -> ServedModel:
        facts = inspect_model(folder)
        return ServedModel(
            kind=_kind(facts),
            architecture=facts.architecture,
            context_length=facts.context_length,
            parameters=facts.parameters,
            size_bytes=facts.size_bytes,
            digest=facts.digest,
        )

    try:
        files = _files_of(source)
    except ModelFileError as error:
        raise UserError("model_unusable", str(error)) from error
    return _prepared(workspace, name, model_storage.WHOLE_MODELS, files, row)


def _there(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _kind(facts: ModelFacts) -> ServedModel.Kind:
    if facts.is_classifier:
        return ServedModel.Kind.CLASSIFIER
    return ServedModel.Kind.CHAT if facts.has_template else ServedModel.Kind.TEXT


def _prepared(
    workspace: Workspace, name: str, kind: str, files: list[Path], row: Callable[[Path], ServedModel]
) -> Prepared:
    """`row` looks at the copy, and makes of it what the row says of its content."""
    if not _TRAINED_NAME.fullmatch(name):
        raise UserError("bad_model_name", f"{name!r} cannot be a model's name.")
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError("model_unusable", f"{', '.join(missing)} is missing.")
    rows: list[ServedModel] = []
    try:
        mounted.check_and_mark()
        kept = model_storage.keep(kind, name, files, lambda folder: rows.append(row(folder)))
    except (ModelFileError, NotHere) as error:
        raise UserError("model_unusable", str(error)) from error
    except (StorageError, OSError) as error:
        raise _not_stored(error) from error
    [model] = rows
    model.workspace, model.name, model.path, model.manifest = workspace, name, *kept
    return Prepared(model)


def remove_model(*, name: str) -> ServedModel:
    """Takes a workspace's model out of service, with its checkpoints, and deletes their files. The replies it gave keep
    its name.

    Raises UserError `unknown_model`, `not_removable` for a model that is everybody's, and `model_in_use` where replies
    are still being written with it, or adapters are made for it.
    """
    with transaction.atomic():
        present = ServedModel.objects.select_for_update().filter(removed_at=None)
        model = present.filter(name=name).first()
        if model is None:
            raise UserError("unknown_model", f"No model is called {name!r}; see: manage.py models list")
        if model.workspace_id is None:
            raise UserError("not_removable", f"{name} is everybody's; only what came of training is removed.")
        for each in (model, *present.filter(is_checkpoint=True, name__startswith=f"{name}:")):
            _remove(each)
    return model


def _remove(model: ServedModel) -> None:
    """Raises UserError `model_in_use`."""
    writing = Generation.objects.filter(model=model).exclude(state__in=Generation.TERMINAL)
    if count := writing.count():
        raise UserError(
            "model_in_use",
            f"{model.name} is writing {count} replies. Wait for them, or stop them.",
            status=409,
        )
    if adapter := model.adapters.filter(removed_at=None).first():
        raise UserError("model_in_use", f"{adapter.name} is made for it. Remove that first.", status=409)
    model.removed_at = timezone.now()
    model.save(update_fields=["removed_at"])
    transaction.on_commit(partial(model_storage.remove_kept, model.kept))


def remove_orphans() -> None:
    """Removes files of models whose adding was rolled back."""
    if (now := clock.deletion_time()) is None:
        return
    present = ServedModel.objects.filter(removed_at=None)
    own = present.filter(workspace__isnull=False).values_list("path", flat=True)
    model_storage.remove_orphans(set(own), set(present.values_list("manifest", flat=True)), now)


def suggested_name(path: Path) -> str:
    """A model's name made of its file's or folder's."""
    stem = path.stem if path.suffix.lower() == ".gguf" else path.name
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")


def digest_cache() -> Path:
    """Where digests are remembered; the inference worker uses the same."""
    return Path(settings.FLYWHEEL_HOME) / "cache"
