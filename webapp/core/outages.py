"""Failures of what the site stands on that a person can be told of, instead of "something went wrong"."""

from __future__ import annotations

from webapp.core.errors import UserError
from webapp.core.full_disk import no_room
from webapp.core.lost_database import database_down


def outage(error: BaseException) -> UserError | None:
    """`disk_full` or `database_down`, where `error` came of that."""
    return no_room(error) or database_down(error)
