"""The sockets each person has open in this process: how many they may be, and how fast they may talk together.

Knows nothing of sockets: they come and go by the id of their person.
"""

from __future__ import annotations

import uuid
from time import monotonic

from webapp.accounts.frame_limits import FrameLimit

# Browsers with that many tabs of one site exist; whoever has more is no browser.
MAX_SOCKETS = 50


class Presence:
    """One person's. A limit of its own for each socket would be none for whoever opens many."""

    __slots__ = ("limit", "sockets")

    def __init__(self) -> None:
        self.sockets = 0
        self.limit = FrameLimit(monotonic())


_people: dict[uuid.UUID, Presence] = {}


def arrive(user_id: uuid.UUID) -> Presence | None:
    """A socket opens; None where the person has too many. Each arrival let in is followed by a `leave`."""
    person = _people.setdefault(user_id, Presence())
    if person.sockets >= MAX_SOCKETS:
        return None
    person.sockets += 1
    return person


def leave(user_id: uuid.UUID) -> None:
    person = _people[user_id]
    person.sockets -= 1
    if not person.sockets:
        del _people[user_id]
