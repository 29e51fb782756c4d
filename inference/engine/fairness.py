"""Who waits, and whose turn it is: what two workspaces get while both wait stays close. Knows no models and no memory.

A virtual token counter (VTC, arXiv:2401.00588): each workspace has a counter of the tokens it was served while somebody
waited, and the turn is that of the lowest. One that was away is lifted to the lowest of those that wait, so that nobody
saves up turns; what one was served ahead of the others is remembered for as long as anybody waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from inference.engine.interface import EngineBusy

_REMEMBERED = 1000  # counters of workspaces that do not wait now, so that their number is bounded


class OfWorkspace(Protocol):
    salt: str  # the workspace's


Item = TypeVar("Item", bound=OfWorkspace)


class FairQueue(Generic[Item]):
    def __init__(self, max_waiting: int) -> None:
        """`max_waiting` items can wait; then only workspaces that have less than their share of it may add some."""
        self._max_waiting = max_waiting
        self._lines: dict[str, deque[Item]] = {}  # never empty ones, those first that began to wait first
        self._put_back: deque[Item] = deque()
        self._served: dict[str, int] = {}  # the longest unchanged first

    def __len__(self) -> int:
        return len(self._put_back) + sum(map(len, self._lines.values()))

    def add(self, item: Item) -> None:
        """Raises EngineBusy where the list is full and the item's workspace has its share of it."""
        line = self._lines.get(item.salt)
        share = self._max_waiting // len({*self._lines, item.salt})
        if len(self) >= self._max_waiting and len(line or ()) >= share:
            raise EngineBusy("The model has too many requests waiting; try again in a moment.")
        if line is None:
            self._served[item.salt] = max(self._served.get(item.salt, 0), self._lowest())
            line = self._lines[item.salt] = deque()
        line.append(item)

    def put_back(self, item: Item) -> None:
        """It had its turn and will be the first to have one again, since its reader has begun to read."""
        self._put_back.appendleft(item)

    def remove(self, item: Item) -> None:
        """Of one that is here."""
        if item in self._put_back:
            self._put_back.remove(item)
            return
        line = self._lines[item.salt]
        line.remove(item)
        if not line:
            del self._lines[item.salt]
        if not self._lines:
            # Where nobody waits there is nothing to divide.
            self._served.clear()

    def in_turn(self) -> Iterator[Item]:
        """Each once. What is removed and charged meanwhile counts for whose turn is next."""
        yield from tuple(self._put_back)
        lines = {workspace: iter(tuple(line)) for workspace, line in self._lines.items()}
        while lines:
            workspace = min(lines, key=lambda workspace: self._served.get(workspace, 0))
            item = next(lines[workspace], None)
            if item is None:
                del lines[workspace]
            else:
                yield item

    def charge(self, workspace: str, tokens: int) -> None:
        """It was served so many."""
        if not self._lines:
            return
        before = self._served.get(workspace, self._lowest())
        self._served.pop(workspace, None)
        self._served[workspace] = before + tokens
        if len(self._served) - len(self._lines) > _REMEMBERED:
            del self._served[next(absent for absent in self._served if absent not in self._lines)]

    def _lowest(self) -> int:
        return min((self._served[workspace] for workspace in self._lines), default=0)
