"""A browser's end of a websocket, in process: Channels' own needs the daphne server, which we do not use."""

from __future__ import annotations

import json
from typing import Any

from asgiref.testing import ApplicationCommunicator
from django.test import Client


class Websocket(ApplicationCommunicator):
    """Talks to an ASGI application as a browser logged in like `client` would; every wait ends after 5 s."""

    def __init__(self, application: Any, path: str, client: Client | None = None) -> None:
        headers = [(b"host", b"localhost"), (b"origin", b"http://localhost")]
        if client is not None:
            cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
            headers.append((b"cookie", cookies.encode()))
        scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": headers,
            "subprotocols": [],
        }
        super().__init__(application, scope)

    async def connect(self) -> None:
        await self.send_input({"type": "websocket.connect"})
        message = await self.receive_output(5)
        assert message["type"] == "websocket.accept", message

    async def send_text(self, text: str) -> None:
        await self.send_input({"type": "websocket.receive", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        await self.send_input({"type": "websocket.receive", "bytes": data})

    async def send_frame(self, frame: dict[str, Any]) -> None:
        await self.send_text(json.dumps(frame))

    async def receive_frame(self) -> dict[str, Any]:
        message = await self.receive_output(5)
        assert message["type"] == "websocket.send", message
        frame: dict[str, Any] = json.loads(message["text"])
        return frame

    async def ask(self, frame: dict[str, Any] | str) -> dict[str, Any]:
        """Send a frame (an object, or text as it is) and return the next one."""
        await self.send_text(frame if isinstance(frame, str) else json.dumps(frame))
        return await self.receive_frame()

    async def receive_close(self) -> int:
        """The code with which the server closes, which it must do next."""
        message = await self.receive_output(5)
        assert message["type"] == "websocket.close", message
        code: int = message["code"]
        return code

    async def disconnect(self) -> None:
        # A wait that ran out has cancelled the application; waiting for it again would raise that in a tear-down.
        if self.future.done():
            return
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(5)
