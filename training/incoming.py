"""A file on its way to the disk, in one piece: written as it arrives, in a place of its own until it is whole.

Knows nothing of what is in it, of who sends it, or of what it will belong to.
"""

from __future__ import annotations

import logging
import os
import uuid
import weakref
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from django.utils.translation import gettext as _

from training import storage
from training.sizes import spoken_size
from webapp.core import durable
from webapp.core.errors import UserError

logger = logging.getLogger(__name__)
# What stays free on the disk whatever is uploaded: the database and everybody's chats live there too.
RESERVED_BYTES = 2**30
_LOOK_EVERY = 64 * 2**20  # bytes
# No request takes so long.
_FORGOTTEN = 86_400  # seconds


class Incoming:
    """Gone when it is closed or nobody has it any more, unless it was moved to its place."""

    def __init__(self, *, most: int) -> None:
        """`most`: bytes. Raises UserError `disk_full`."""
        self.size, self._most, self._looked = 0, most, 0
        self._path = storage.incoming_folder() / str(uuid.uuid4())
        try:
            durable.make_folders(self._path.parent)
            self.file = self._path.open("x+b")
        except OSError as error:
            raise _unwritable(error) from error
        self.close = weakref.finalize(self, _remove, self.file, self._path)

    def write(self, data: bytes) -> None:
        """Raises UserError `file_too_large`, `disk_full`."""
        self.size += len(data)
        if self.size > self._most:
            raise too_large(self._most)
        if self.size - self._looked > _LOOK_EVERY:
            self._looked = self.size
            if storage.free_bytes() < RESERVED_BYTES:
                raise UserError("disk_full", _("This server has no room for this file."), status=507)
        try:
            self.file.write(data)
        except OSError as error:
            raise _unwritable(error) from error

    def sync(self) -> None:
        """It is whole, and survives the machine. Raises UserError `disk_full`."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise _unwritable(error) from error

    def move_to(self, path: Path) -> None:
        """Once it is whole and survives the machine: there it does, too. Raises UserError `disk_full`."""
        try:
            with durable.named(path):
                self._path.rename(path)
        except OSError as error:
            raise _unwritable(error) from error


def _remove(file: BinaryIO, path: Path) -> None:
    file.close()
    storage.remove_file(path)


def too_large(most: int) -> UserError:
    return UserError(
        "file_too_large",
        _("A file may have at most %(most)s here. Split it into several files.")
        % {"most": spoken_size(most)},
        status=413,
        param="file",
    )


def _unwritable(error: OSError) -> UserError:
    logger.error("an incoming file could not be written: %s", error)
    return UserError(
        "disk_full",
        _("This server could not write the file (%(reason)s).") % {"reason": error.strerror},
        status=507,
    )


def remove_forgotten(now: datetime) -> None:
    """What a process left that was killed while a file arrived."""
    folder = storage.incoming_folder()
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if now.timestamp() - path.stat().st_mtime > _FORGOTTEN:
                storage.remove_file(path)
        except FileNotFoundError:
            continue
