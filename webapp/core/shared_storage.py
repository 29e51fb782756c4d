"""The storage that all hosts of a site share: a folder or a bucket, by Django's storage API. Knows not what is in it.

Unset (`STORAGE_URL`), there is none, and everything lies on one host.
"""

from __future__ import annotations

import importlib.util
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, Storage, storages

from webapp.core.durable import sync_path
from webapp.env import Env, SettingsError

ALIAS = "shared"
# In a folder: it is the storage, and not the empty folder that it is mounted on.
MARKER = ".flywheel-storage"
_CHUNK = 2**20


class StorageError(Exception):
    """The storage does not do what it should; the message is a sentence."""


class NotMounted(StorageError):
    """What is there is not the storage that this site's files are in."""


def configuration(env: Env) -> dict[str, Any]:
    """What Django's STORAGES says of it; nothing where there is none. Raises SettingsError."""
    url = env.url("STORAGE_URL", ("file", "s3"))
    if url is None:
        return {}
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = unquote(parts.path)
        if parts.netloc or not folder.strip("/"):
            raise SettingsError("STORAGE_URL must name a folder: file:///mnt/flywheel.")
        options = {"location": folder, "allow_overwrite": True}
        return {ALIAS: {"BACKEND": "webapp.core.shared_storage.FolderStorage", "OPTIONS": options}}
    if "@" in parts.netloc:
        # Whoever names a bucket says its name, on pages and in logs.
        raise SettingsError(
            "STORAGE_URL holds a key: give that in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and s3://bucket/prefix."
        )
    if not parts.netloc:
        raise SettingsError("STORAGE_URL must name a bucket: s3://bucket/prefix.")
    if importlib.util.find_spec("storages") is None or importlib.util.find_spec("boto3") is None:
        raise SettingsError(
            "STORAGE_URL names a bucket: install django-storages for it, pip install '.[s3]'."
        )
    options = {
        "bucket_name": parts.netloc,
        "location": parts.path.strip("/"),
        "access_key": env.raw("AWS_ACCESS_KEY_ID"),
        "secret_key": env.raw("AWS_SECRET_ACCESS_KEY"),
        "endpoint_url": env.url("AWS_ENDPOINT_URL", ("http", "https")),
        "region_name": env.raw("AWS_REGION"),
    }
    # What is not given boto3 looks for itself: a machine may have a role.
    given = {name: value for name, value in options.items() if value is not None}
    return {ALIAS: {"BACKEND": "webapp.core.s3_storage.StreamedS3Storage", "OPTIONS": given}}


class FolderStorage(FileSystemStorage):
    """Others may write to the folder, and not by way of it to what this process may read, write or delete elsewhere."""

    def path(self, name: str) -> str:
        """Raises OSError where a link, a pipe or a device is on the way, which nobody here puts there."""
        path = super().path(name)
        at = Path(self.location)
        for part in Path(path).relative_to(at).parts:
            at /= part
            try:
                mode = at.lstat().st_mode
            except FileNotFoundError:
                break
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise OSError(f"{at} is neither a file nor a folder")
        return path


def is_shared() -> bool:
    return ALIAS in settings.STORAGES


def _storage() -> Storage:
    return storages[ALIAS]


class _failures:
    """Whatever a backend raises becomes a StorageError: botocore's errors have no common root with Django's."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, StorageError):
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise StorageError(f"The shared storage cannot {self._doing}: {said.rstrip('.')}.") from error


def write(name: str, source: Path | bytes) -> None:
    """Replaces what is there. On a disk of ours it is on the disk afterwards. Raises StorageError."""
    storage = _storage()
    with _failures(f"take {name}"):
        if isinstance(source, bytes):
            storage.save(name, ContentFile(source))
        else:
            with source.open("rb") as file:
                storage.save(name, File(file))
        if isinstance(storage, FileSystemStorage):
            path = Path(storage.path(name))
            sync_path(path)
            sync_path(path.parent)


def read(name: str) -> Iterator[bytes]:
    """In pieces of a mebibyte or less. Raises StorageError."""
    storage = _storage()
    with _failures(f"give {name}"):
        if hasattr(storage, "stream"):
            yield from storage.stream(name, _CHUNK)
        else:
            with storage.open(name) as file:
                yield from file.chunks(_CHUNK)


def read_whole(name: str, limit: int) -> bytes:
    """Raises StorageError, also where it has more than `limit` bytes."""
    found = bytearray()
    for chunk in read(name):
        found += chunk
        if len(found) > limit:
            raise StorageError(f"{name} in the shared storage is longer than it can be.")
    return bytes(found)


def exists(name: str) -> bool:
    with _failures(f"look for {name}"):
        return _storage().exists(name)


def written_at(name: str) -> datetime:
    """By the storage's clock. Raises StorageError."""
    with _failures(f"look at {name}"):
        return _storage().get_modified_time(name)


def listed(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in it; none where it is not there. Raises StorageError."""
    with _failures(f"list {folder}"):
        try:
            return _storage().listdir(folder)
        except FileNotFoundError:
            return [], []


def is_marked() -> bool:
    """Whether somebody has said that this is the storage. A bucket is nothing but itself. Raises StorageError."""
    return not isinstance(_storage(), FileSystemStorage) or exists(MARKER)


def mark() -> None:
    """Raises StorageError."""
    write(MARKER, b"Flywheel keeps files here. Where this one is missing, the storage is not mounted.\n")


def delete(name: str) -> None:
    """Nothing where it is gone already. Raises StorageError."""
    with _failures(f"delete {name}"):
        _storage().delete(name)


def delete_folder(folder: str) -> None:
    """With the files in it. Raises StorageError."""
    for name in listed(folder)[1]:
        delete(f"{folder}/{name}")
    if isinstance(_storage(), FileSystemStorage):
        delete(folder)  # in a bucket folders are what names begin with
