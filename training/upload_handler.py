"""Django's side of a file that comes in a form: it goes straight to where it will lie, never through memory.

One in a request. What no view has kept is gone when the request ends.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import HttpRequest
from django.utils.translation import gettext as _

from training.incoming import Incoming
from webapp.core.errors import UserError


def read_form(request: HttpRequest) -> None:
    """So that nothing is left of a file in the midst of which something goes wrong: Django forgets it."""
    try:
        request.FILES  # noqa: B018
    except BaseException:
        for handler in request.upload_handlers:
            handler.upload_interrupted()
        raise


class IncomingFile(UploadedFile):
    """What `request.FILES` holds."""

    def __init__(self, incoming: Incoming, name: str) -> None:
        super().__init__(file=incoming.file, name=name, size=incoming.size)
        self.incoming = incoming

    def close(self) -> None:
        self.incoming.close()


class StraightToDisk(FileUploadHandler):
    chunk_size = 2**18

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        if hasattr(self, "file"):
            raise UserError("one_file", _("Send one file in a request."), param=self.field_name)
        incoming = Incoming(most=settings.API_MAX_UPLOAD_MB * 2**20)
        self.file = IncomingFile(
            incoming, self.file_name or ""
        )  # under this name Django closes it after an error

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self.file.incoming.write(raw_data)

    def file_complete(self, file_size: int) -> IncomingFile:
        # Here, and not in the transaction that keeps it: on SQLite all others would wait for the disk.
        self.file.incoming.sync()
        self.file.size = file_size
        return self.file

    def upload_interrupted(self) -> None:
        if hasattr(self, "file"):
            self.file.close()
