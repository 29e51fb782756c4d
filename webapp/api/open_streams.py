"""Everybody who waits for an answer over HTTP in this process: looked after together, every few seconds.

Whoever's key was revoked, or who is no member any more, is told and let go. Whoever hears nothing for long is poked, so
that a proxy between does not think the connection dead. What a client may come back to is marked as being read.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from typing import TYPE_CHECKING
from uuid import UUID
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils.translation import gettext as _

from webapp.api import access, services
from webapp.api.callers import Caller
from webapp.core import stopping
from webapp.core.errors import UserError

if TYPE_CHECKING:
    from webapp.api.following import Following

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 15.0


class OpenStreams:
    """Of one event loop; `OpenStreams.current()` is the loop's own. Its task runs while anybody waits."""

    _of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, OpenStreams] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._streams: set[Following] = set()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        stopping.when_stopping(self._wait_for_the_grace)

    @classmethod
    def current(cls) -> OpenStreams:
        loop = asyncio.get_running_loop()
        if loop not in cls._of_loop:
            cls._of_loop[loop] = cls()
        return cls._of_loop[loop]

    def add(self, stream: Following) -> None:
        self._streams.add(stream)
        if self._task is None or self._task.done():
            # The context of a request ends with it; this outlives the one that begins it.
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._look_after_them(), context=contextvars.Context())

    def remove(self, stream: Following) -> None:
        self._streams.discard(stream)

    def _wait_for_the_grace(self) -> None:
        self._loop.call_later(settings.STOP_GRACE_SECONDS, self._let_go, context=contextvars.Context())

    def _let_go(self) -> None:
        """Of all that wait still when this process has to end."""
        for stream in tuple(self._streams):
            message = _("This server is being restarted. Ask again for the rest of the answer.")
            stream.let_go(UserError("server_restarting", message, status=503, retry_after=1))

    async def _look_after_them(self) -> None:
        while self._streams:
            await asyncio.sleep(RECHECK_SECONDS)
            streams = tuple(self._streams)
            try:
                await self._recheck(streams)
            except Exception:  # database or broker away: asked again in a moment
                logger.warning("open streams could not be rechecked", exc_info=True)
            now = time.monotonic()
            for stream in streams:
                if now - stream.woken > KEEP_ALIVE_SECONDS - RECHECK_SECONDS:
                    stream.poke()

    async def _recheck(self, streams: tuple[Following, ...]) -> None:
        callers = {stream.caller for stream in streams}
        resumable = [stream.resumable for stream in streams if stream.resumable is not None]
        let_in = await sync_to_async(_visit)(callers, resumable)
        for stream in streams:
            if stream.caller not in let_in:
                stream.end(
                    UserError(
                        "invalid_api_key",
                        _("The key of this request was revoked, or its person has left the workspace."),
                        status=401,
                    )
                )


def _visit(callers: set[Caller], resumable: list[UUID]) -> set[Caller]:
    services.mark_as_read(resumable)
    return access.still_let_in(callers)
