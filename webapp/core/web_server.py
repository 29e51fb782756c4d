"""`python -m webapp.core.web_server`: uvicorn, which lets in whoever stands in the door when it closes.

    python -m webapp.core.web_server webapp.asgi:application --port 8000     # uvicorn's own options

What the system has accepted and uvicorn has not is reset when its listening socket is closed. A proxy has sent its
request by then, and may not send a POST again. Knows nothing of the site.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
from typing import Any

import uvicorn

from webapp.core import interpreter

# What came last has sent its request by then.
_LAST_SECONDS = 1.0


class Server(uvicorn.Server):
    """Of a single process. Where there are several, uvicorn's own closes the door when the last of them has gone."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        last = [accepted for server in self.servers for accepted in _close(server)]
        loop = asyncio.get_running_loop()
        for accepted in last:
            await loop.connect_accepted_socket(self._protocol, accepted)
        if last:
            loop.call_later(_LAST_SECONDS, self._tell_connections)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def _tell_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.shutdown()


def _close(server: Any) -> list[socket.socket]:
    """Closes it; who is still to be let in."""
    accepted = []
    for listening in server.sockets:
        # A copy, since an event loop's own cannot be asked.
        with socket.socket(fileno=os.dup(listening.fileno())) as door:
            door.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    accepted.append(door.accept()[0])
    server.close()
    return accepted


if __name__ == "__main__":
    interpreter.begin()
    command = importlib.import_module("uvicorn.main")  # `uvicorn.main` is a function
    command.Server = Server  # type: ignore[attr-defined]
    command.main()
