"""The web process's beginning: what refuses it (`start_checks`), it says before it takes a single connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import sync_to_async

from webapp.core import snapshots
from webapp.core.interpreter import settle
from webapp.ops import start_checks


async def lifespan(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """ASGI lifespan protocol, version 2.0."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            refusal = await sync_to_async(start_checks.refusal)()
            if refusal:
                await send({"type": "lifespan.startup.failed", "message": f"flywheel: {refusal}"})
                return
            settle()
            snapshots.start("web")
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await sync_to_async(snapshots.stop)()
            await send({"type": "lifespan.shutdown.complete"})
            return
