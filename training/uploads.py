"""Files as they arrive: in chunks, each where the last one ended, straight to disk. Knows nothing of what is in them.

The row says how much has arrived. Whoever lost the connection asks for it and goes on from there.
"""

from __future__ import annotations

import errno
import fcntl
import os
from datetime import timedelta
from typing import IO, Protocol

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from training import services, storage
from training.incoming import RESERVED_BYTES, Incoming, remove_forgotten
from training.models import Dataset, DataWork, SourceFile
from training.sizes import spoken_size
from training.work import begin_work, lock_dataset
from webapp.core import clock, durable
from webapp.core.body_limit import MAX_BODY_BYTES
from webapp.core.errors import NotFound, UserError

MAX_FILE_BYTES = 20 * 2**30
MAX_FILES = 100
# Small enough to stay in memory while a request is read, and not be written to disk twice.
CHUNK_BYTES = 2 * 2**20
# An upload nobody went on with for so long is given up.
ABANDONED = timedelta(days=7)
_READ_BYTES = 2**18
_LONGEST_NAME = 255
State = SourceFile.State


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class WrongOffset(UserError):
    """The chunk does not continue what has arrived; `received` says where to go on."""

    def __init__(self, received: int) -> None:
        super().__init__("wrong_offset", _("This part of the file was not expected now."), status=409)
        self.received = received


def clean_name(name: str) -> str:
    """A label: the last part of a path, without what does not print."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(letter for letter in last if letter.isprintable()).strip()
    return printable[:_LONGEST_NAME] or _("unnamed")


def begin_upload(*, dataset: Dataset, name: str, size: int, modified: int = 0) -> SourceFile:
    """The file to send chunks to: a new one, or the unfinished one that this one continues.

    Raises UserError `file_empty`, `file_too_large`, `disk_full`, `too_many_files`.
    """
    name = clean_name(name)
    if size < 1:
        raise _empty(name)
    if size > MAX_FILE_BYTES:
        raise UserError(
            "file_too_large",
            _("%(name)s has %(size)s; the most for one file is %(most)s. Split it into several files.")
            % {"name": name, "size": spoken_size(size), "most": spoken_size(MAX_FILE_BYTES)},
        )
    with transaction.atomic():
        lock_dataset(dataset.pk)
        files = SourceFile.objects.filter(dataset=dataset)
        continued = files.filter(name=name, size=size, modified=modified, state=State.UPLOADING).first()
        if continued is not None:
            _make_place(continued)
            return as_on_disk(file=continued)
        _require_room(dataset)
        require_space(name, size)
        file = SourceFile.objects.create(
            dataset=dataset, name=name, size=size, modified=modified, received_at=timezone.now()
        )
        _make_place(file)
        dataset.save(update_fields=["updated_at"])
    return file


def _make_place(file: SourceFile) -> None:
    path = storage.source_path(file)
    with durable.named(path):
        path.touch()


def _empty(name: str) -> UserError:
    return UserError("file_empty", _("%(name)s is empty.") % {"name": name})


def _require_room(dataset: Dataset) -> None:
    if SourceFile.objects.filter(dataset=dataset).count() >= MAX_FILES:
        raise UserError(
            "too_many_files",
            ngettext(
                "A dataset has at most %(count)s file. A ZIP archive of many files counts as one.",
                "A dataset has at most %(count)s files. A ZIP archive of many files counts as one.",
                MAX_FILES,
            )
            % {"count": MAX_FILES},
        )


def require_space(name: str, size: int) -> None:
    """Raises UserError `disk_full`."""
    free = max(0, storage.free_bytes() - RESERVED_BYTES)
    if size > free:
        raise UserError(
            "disk_full",
            _(
                "%(name)s needs %(size)s, and this server has room for %(free)s. Remove something, or add a disk."
            )
            % {"name": name, "size": spoken_size(size), "free": spoken_size(free)},
            status=507,
        )


def as_on_disk(*, file: SourceFile) -> SourceFile:
    """Sets `received` back where less is there: a machine that lost its power may have lost the end of the file."""
    try:
        there = storage.source_path(file).stat().st_size
    except FileNotFoundError:
        there = 0
    if file.state == State.UPLOADING and there < file.received:
        SourceFile.objects.filter(pk=file.pk, received=file.received).update(received=there)
        file.received = there
    return file


def receive_chunk(*, file: SourceFile, offset: int, length: int, body: Readable) -> SourceFile:
    """Appends `length` bytes of `body`, which continue the file at `offset`. The last one starts the look at it.

    Raises WrongOffset, NotFound, and UserError `chunk_too_large`, `disk_full`, `chunk_short`.
    """
    if not 0 < length <= MAX_BODY_BYTES or offset + length > file.size:
        raise UserError("chunk_too_large", _("This part is larger than what is missing of the file."))
    try:
        with storage.source_path(file).open("r+b") as target:
            # A part that is sent again while the first sending of it is still being written has to wait its turn.
            fcntl.flock(target, fcntl.LOCK_EX)
            file.refresh_from_db(fields=["received", "state"])
            as_on_disk(file=file)
            if file.received != offset or file.state != State.UPLOADING:
                raise WrongOffset(file.received)
            # There was room when it was announced; others may have taken it since, and everything else needs the rest.
            if storage.free_bytes() - length < RESERVED_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            target.seek(offset)
            _copy(body, target, length)
            os.fsync(target.fileno())  # before the row says that it is here
            return _arrived(file, offset + length)
    except (FileNotFoundError, SourceFile.DoesNotExist) as error:
        raise NotFound(_("That file")) from error
    except OSError as error:
        raise UserError(
            "disk_full",
            _("This server could not write the file (%(reason)s). What has arrived is kept: go on later.")
            % {"reason": error.strerror},
            status=507,
        ) from error


@transaction.atomic
def keep_file(*, dataset: Dataset, name: str, incoming: Incoming) -> SourceFile:
    """A file that arrived in one request, which is looked at next. Raises UserError `file_empty`, `too_many_files`."""
    name = clean_name(name)
    if not incoming.size:
        raise _empty(name)
    lock_dataset(dataset.pk)
    _require_room(dataset)
    file = SourceFile.objects.create(
        dataset=dataset,
        name=name,
        size=incoming.size,
        received=incoming.size,
        state=State.DETECTING,
        received_at=timezone.now(),
    )
    dataset.save(update_fields=["updated_at"])
    begin_work(dataset=dataset, kind=DataWork.Kind.DETECT, parameters={}, file=file)
    incoming.move_to(storage.source_path(file))
    return file


def _copy(body: Readable, target: IO[bytes], length: int) -> None:
    left = length
    while left:
        piece = body.read(min(left, _READ_BYTES))
        if not piece:
            raise UserError("chunk_short", _("The connection broke off. What has arrived is kept."))
        target.write(piece)
        left -= len(piece)
    target.flush()


def _arrived(file: SourceFile, received: int) -> SourceFile:
    file.received, file.received_at = received, timezone.now()
    with transaction.atomic():
        if received < file.size:
            file.save(update_fields=["received", "received_at"])
            return file
        file.state = State.DETECTING
        file.save(update_fields=["received", "received_at", "state"])
        begin_work(dataset=file.dataset, kind=DataWork.Kind.DETECT, parameters={}, file=file)
    return file


def remove_abandoned() -> None:
    """Uploads nobody went on with."""
    if (now := clock.deletion_time()) is None:
        return
    forgotten = SourceFile.objects.filter(state=State.UPLOADING, received_at__lt=now - ABANDONED)
    for file in forgotten.select_related("dataset")[:1000]:
        file.delete()
        services.start_first_report(dataset=file.dataset)
    remove_forgotten(now)
