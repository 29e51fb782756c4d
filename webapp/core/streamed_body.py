"""Request bodies that a view reads while they arrive, instead of after Django has written them to a temporary file.

A file of gigabytes is then written once, to where it will lie, and whoever may not send one is told before it is sent.
The view has a thread of its own, which waits for what has not arrived. Knows nothing of what is sent.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.core.handlers.asgi import ASGIRequest

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[..., Awaitable[None]]
_KEY = "flywheel.body"
# Beyond every limit on how slowly a body may come: only that no thread waits for ever.
_PATIENCE = 600.0  # seconds
_READ_BYTES = 2**18


def stream_bodies(application: Application, is_streamed: Callable[[Message], bool]) -> Application:
    """Wraps an ASGI application of HTTP whose requests are StreamedRequests."""

    async def streaming(scope: Message, receive: Receive, send: Any) -> None:
        if not is_streamed(scope):
            await application(scope, receive, send)
            return
        body = StreamedBody(receive)
        await application({**scope, _KEY: body}, body.receive, send)

    return streaming


class StreamedRequest(ASGIRequest):
    """Reads its body from the connection, where `stream_bodies` says so."""

    def __init__(self, scope: Message, body_file: Any) -> None:
        body = scope.get(_KEY)
        super().__init__(scope, body_file if body is None else io.BufferedReader(body, _READ_BYTES))
        if body is not None and "CONTENT_LENGTH" not in self.META:
            # Django would take a body of unknown length for none.
            self.META["CONTENT_LENGTH"] = str(2**62)


class StreamedBody(io.RawIOBase):
    """What is read is for the view's thread; `receive` is what Django hears of the connection meanwhile: an empty body,
    and that the client is gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._loop = receive, asyncio.get_running_loop()
        # Of the connection, and not of the view: what `receive` asks of the view's own thread would wait for itself.
        self._context = contextvars.copy_context()
        self._over = asyncio.Event()  # all of it has arrived, or nothing more will
        self._is_gone = self._is_begun = False
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """0 at the end. Raises OSError where the client is gone, and what the wrapped `receive` raises."""
        while not self._rest and not self._over.is_set():
            coming = self._context.run(asyncio.run_coroutine_threadsafe, self._next(), self._loop)
            self._rest = coming.result(_PATIENCE)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_gone = True
            self._over.set()
            raise OSError("the client is gone")
        if not message.get("more_body", False):
            self._over.set()
        return bytes(message.get("body", b""))

    async def receive(self) -> Message:
        if not self._is_begun:
            self._is_begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"} if self._is_gone else await self._receive()
