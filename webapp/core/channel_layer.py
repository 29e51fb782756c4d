"""The channel layer, steady when the broker restarts. Knows nothing of who speaks over it."""

from __future__ import annotations

import asyncio
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer

# Whoever tells others something goes on without them where the broker is deaf.
_TELL_SECONDS = 1.0


class SteadyChannelLayer(RedisPubSubChannelLayer):
    """The first command after a broker's restart finds a dead connection; it is repeated, over a new one."""

    async def new_channel(self) -> str:
        return str(await self._twice("new_channel"))

    async def group_add(self, group: str, channel: str) -> None:
        await self._twice("group_add", group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Raises TimeoutError where the broker does not take it."""
        async with asyncio.timeout(_TELL_SECONDS):
            await self._twice("group_send", group, message)

    async def _twice(self, name: str, *args: Any) -> Any:
        command = getattr(self._get_layer(), name)
        try:
            return await command(*args)
        except Exception:  # of the dead connection: redis' errors, OSError, and RuntimeError from uvloop
            return await command(*args)
