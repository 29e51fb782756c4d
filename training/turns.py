"""Whose turn it is where what takes minutes would hold up what takes seconds: workspaces one after the other.

Of this process alone. Knows nothing of what is done.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID


class Turns:
    def __init__(self, most: int) -> None:
        """`most`: so many at once."""
        self._most, self._under_way = most, 0
        self._waiting: OrderedDict[UUID, dict[UUID, None]] = OrderedDict()  # by workspace, each in its order
        self._lock = threading.Lock()
        self._is_over = False

    def end(self) -> None:
        """What is under way is the last: its process is told to stop."""
        self._is_over = True

    def take(self, workspace: UUID, work: UUID, do: Callable[[UUID], None]) -> None:
        """Does it now, and then what has come to wait meanwhile; or leaves it to whoever does something now."""
        with self._lock:
            if self._under_way >= self._most:
                self._waiting.setdefault(workspace, {})[work] = None
                return
            self._under_way += 1
        following: UUID | None = work
        try:
            while following is not None:
                do(following)
                following = self._next()
        finally:
            if following is not None:  # it was broken off
                with self._lock:
                    self._under_way -= 1

    def _next(self) -> UUID | None:
        with self._lock:
            if self._is_over or not self._waiting:
                self._under_way -= 1
                return None
            workspace, theirs = self._waiting.popitem(last=False)
            work = next(iter(theirs))
            del theirs[work]
            if theirs:
                self._waiting[workspace] = theirs  # behind the others
            return work
