"""What a full disk makes others raise, as the one sentence that says so. Knows no model of ours."""

from __future__ import annotations

import errno
import sqlite3

from django.db import DatabaseError
from django.utils.translation import gettext as _
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from webapp.core.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Of PostgreSQL: its SQLSTATE disk_full.
_POSTGRESQL = "53100"
# Of SQLite: full; and what could not be written, which is what a full disk makes of its journal.
_SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC)


def no_room(error: BaseException) -> UserError | None:
    """`disk_full`, where that is what `error` came of: nothing of what was sent was kept. None where it is not."""
    if not (_is_file(error) or _is_database(error) or _is_broker(error)):
        return None
    message = _("This server's disk is full: nothing of this was kept. Tell the person who runs it.")
    return UserError("disk_full", message, status=507, retry_after=60)


def is_full(error: OSError) -> bool:
    """Whether a file could not be written for want of room: the disk's, or a quota's."""
    return error.errno in _FULL


def _is_file(error: BaseException) -> bool:
    return isinstance(error, OSError) and is_full(error)


def _is_database(error: BaseException) -> bool:
    cause = error.__cause__
    if not isinstance(error, DatabaseError) or cause is None:
        return False
    # Not by psycopg's own class: without PostgreSQL nobody has to import it.
    return (
        getattr(cause, "sqlstate", None) == _POSTGRESQL or getattr(cause, "sqlite_errorcode", None) in _SQLITE
    )


def _is_broker(error: BaseException) -> bool:
    """Its memory counts as well: with noeviction it takes no more."""
    if isinstance(error, OutOfMemoryError | ReadOnlyError):
        return True
    return isinstance(error, ResponseError) and str(error).startswith("MISCONF")
