"""How much a request may send, and how slowly. Django spools a body of any size to disk before a view says whether it
is wanted, and waits for it without end.

Knows nothing of what is sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.utils.translation import gettext as _

from webapp.core.errors import UserError
from webapp.core.full_disk import no_room
from webapp.core.request_ids import request_id_for

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# How many bytes this request may send, where that is more than anybody may. Raises UserError for who may send nothing.
Allowance = Callable[[Message], Awaitable[int]]

MAX_BODY_BYTES = 4 * 2**20
# A body may pause for so long, and over its whole length be no slower than this.
SILENCE_SECONDS = 30.0
SLOWEST_BYTES_A_SECOND = 1024
# Whoever is still sending when the answer is there may not read it before they are done: so much of the rest is taken
# and thrown away, for so long.
_LINGER_BYTES, _LINGER_SECONDS = 64 * 2**20, 5.0


def limit_bodies(
    application: Callable[..., Awaitable[None]],
    most: int = MAX_BODY_BYTES,
    allowance: Allowance | None = None,
    silence: float = SILENCE_SECONDS,
) -> Callable[..., Awaitable[None]]:
    """Wraps an ASGI application of HTTP. 413 for a longer body, whether its length was announced or not; 408 for one
    that does not come. Whoever announces or sends more than `most` bytes may send what `allowance` says."""

    async def limited(scope: Message, receive: Receive, send: Send) -> None:
        body = _Body(scope, receive, most, allowance, silence)
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await body.check_announced()
            await application(scope, body.receive, noted)
        except UserError as error:
            if not started:
                await _refuse(scope, error, body, send)
        except OSError as error:
            full = no_room(error)
            if started or body.is_complete or full is None:
                raise
            await _refuse(scope, full, body, send)

    return limited


class _Body:
    """One request's body on its way in: counted, and timed until it is complete."""

    def __init__(
        self, scope: Message, receive: Receive, most: int, allowance: Allowance | None, silence: float
    ) -> None:
        self.scope, self._receive, self.most, self._allowance = scope, receive, most, allowance
        self.received, self.is_complete = 0, False
        self._silence = silence
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    async def check_announced(self) -> None:
        """Raises UserError `request_too_large`, and what the allowance raises."""
        announced = next((value for name, value in self.scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or len(announced) > 18:
            raise _too_large()
        await self._require(int(announced))

    async def receive(self) -> Message:
        if self.is_complete:
            return await self._receive()
        slowest = self._began + self._silence + self.received / SLOWEST_BYTES_A_SECOND - self._clock()
        try:
            async with asyncio.timeout(min(self._silence, slowest)):
                message = await self._receive()
        except TimeoutError:
            raise UserError(
                "request_timeout", _("The body did not come, or came too slowly. Send it again."), status=408
            ) from None
        self.received += len(message.get("body", b""))
        self.is_complete = not message.get("more_body", False)
        await self._require(self.received)
        return message

    async def _require(self, size: int) -> None:
        if size > self.most and self._allowance is not None:
            self.most = max(self.most, await self._allowance(self.scope))
            self._allowance = None
        if size > self.most:
            raise _too_large()

    async def throw_away(self) -> None:
        """What is still being sent, or a part of it."""
        # Whoever waits for the word to go on has sent nothing, and reads.
        if any(name == b"expect" for name, _value in self.scope["headers"]):
            return
        end = self.received + _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self.is_complete and self.received < end:
                    message = await self._receive()
                    self.received += len(message.get("body", b""))
                    self.is_complete = not message.get("more_body", False)
        except TimeoutError:
            pass


def _too_large() -> UserError:
    return UserError(
        "request_too_large", _("This is more than this address takes in one request."), status=413
    )


async def _refuse(scope: Message, error: UserError, body: _Body, send: Send) -> None:
    if scope["path"].startswith("/v1/"):
        kind, text = b"application/json", json.dumps(error.as_json()).encode()
    else:
        kind, text = b"text/plain; charset=utf-8", f"{error.message}\n".encode()
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    headers = [
        (b"content-type", kind),
        (b"connection", b"close"),
        (b"cache-control", b"private, no-store"),
        (b"x-request-id", request_id_for(given.decode("latin1")).encode()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": text, "more_body": True})
    if error.status != 408:
        await body.throw_away()
    await send({"type": "http.response.body", "body": b""})
