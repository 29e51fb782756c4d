"""How much a request may send. Django spools a body of any size to disk before a view says whether it is wanted.

Knows nothing of what is sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
MAX_BODY_BYTES = 4 * 2**20
_SENTENCE = b"This is more than this site takes in one request.\n"


class _TooLarge(Exception):
    pass


def limit_bodies(
    application: Callable[..., Awaitable[None]], most: int = MAX_BODY_BYTES
) -> Callable[..., Awaitable[None]]:
    """Wraps an ASGI application of HTTP: 413 for a longer body, whether its length was announced or not."""

    async def limited(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced[:19]) > most:
            await _refuse(send)
            return
        received, started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await application(scope, counted, noted)
        except _TooLarge:
            if not started:
                await _refuse(send)

    return limited


async def _refuse(send: Callable[[Message], Awaitable[None]]) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": _SENTENCE})
