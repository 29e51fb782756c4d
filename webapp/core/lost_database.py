"""A database that hangs up: it was restarted, or a network between went away. Knows no model of ours.

Threads that live long keep their connection, since to open one costs more than what it is asked. They look first
whether the server has hung up meanwhile, which costs no question to it: the kernel knows.
"""

from __future__ import annotations

import contextlib
import select
import sqlite3
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext as _

from webapp.core.errors import UserError

if TYPE_CHECKING:  # without PostgreSQL nobody has to import it
    import psycopg

# SQLSTATE of connections, of too many of them, and of servers that end or begin (PostgreSQL, appendix A).
_STATES = ("08", "53300", "57P0")


def drop_lost_connections() -> None:
    """Closes those of this thread that the server has hung up on: whoever asks next gets another."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is None or connection.in_atomic_block:
            continue
        if (connection.errors_occurred or _may_be_lost(connection)) and not connection.is_usable():
            with contextlib.suppress(DatabaseError):
                connection.close()


def _may_be_lost(connection: BaseDatabaseWrapper) -> bool:
    return connection.vendor == "postgresql" and hung_up(connection.connection)


def hung_up(connection: psycopg.Connection) -> bool:
    """Whether the server says something although nothing was asked, which is mostly goodbye."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def database_down(error: BaseException) -> UserError | None:
    """`database_down`, where that is what `error` came of: asked again in a moment it may be back. None where it is
    not."""
    if not isinstance(error, DatabaseError | InterfaceError):
        return None
    cause = error.__cause__ or error
    # Only psycopg's errors have one, and that is None where the server could not say any.
    state = getattr(cause, "sqlstate", "")
    is_lost = isinstance(error, OperationalError | InterfaceError) and (
        state is None or state.startswith(_STATES)
    )
    if not is_lost and getattr(cause, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
        return None
    message = _("The database does not answer now. Try again in a moment.")
    return UserError("database_down", message, status=503, retry_after=5)
