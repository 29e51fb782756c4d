"""That this web process was told to end, for whoever keeps a request open. Knows nothing of what is asked.

Uvicorn tells connections, closes websockets with 1012 and idle connections at once, and waits for the rest.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []
_has_begun = False


def when_stopping(act: Callable[[], None]) -> None:
    """Calls `act` once, on the event loop, when the process is told to end; at once where it was already."""
    if _has_begun:
        act()
    else:
        _listeners.append(act)


def begin() -> None:
    """What a connection calls that is told to end."""
    global _has_begun
    if not _has_begun:
        _has_begun = True
        for act in _listeners:
            act()
