"""The cheapest websocket client that does the job: thousands in one process, each frame handed over as bytes.

Text frames only, unmasked as servers send them; no extensions. Enough for load tests, not for the world.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable
from typing import Any


class RawSocket(asyncio.Protocol):
    """One connection. `on_frame(payload)` is called with the bytes of each text frame, from the event loop."""

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        self.on_frame = on_frame
        self.opened = asyncio.get_running_loop().create_future()
        self.closed = False
        self._buffer = b""
        self._upgraded = False
        self.transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int, cookie: str, on_frame: Callable[[bytes], None]) -> RawSocket:
        _, socket = await asyncio.get_running_loop().create_connection(
            lambda: cls(on_frame), "127.0.0.1", port
        )
        key = base64.b64encode(os.urandom(16)).decode()
        assert socket.transport is not None
        socket.transport.write(
            (
                f"GET /ws/chat/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nOrigin: http://127.0.0.1:{port}\r\n"
                f"Cookie: {cookie}\r\n\r\n"
            ).encode()
        )
        await asyncio.wait_for(socket.opened, 60)
        return socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed before it was open"))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        if not self._upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            if b" 101 " not in buffer[:20]:
                self.opened.set_exception(ConnectionError(buffer[:80].decode("latin1")))
                return
            self._upgraded = True
            self.opened.set_result(None)
            at = end + 4
        while len(buffer) - at >= 2:
            length, start = buffer[at + 1] & 127, at + 2
            if length == 126:
                length, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if len(buffer) < start + length or len(buffer) < start:
                break
            opcode = buffer[at] & 15
            if opcode == 1:
                self.on_frame(buffer[start : start + length])
            elif opcode == 9:
                self._write(10, buffer[start : start + length])
            at = start + length
        self._buffer = buffer[at:]

    def send(self, frame: dict[str, Any]) -> None:
        self._write(1, json.dumps(frame).encode())

    def _write(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        head = bytes([128 | opcode])
        head += bytes([128 | size]) if size < 126 else bytes([254]) + size.to_bytes(2, "big")
        # A mask of zeros is a valid mask, and costs nothing.
        assert self.transport is not None
        self.transport.write(head + b"\0\0\0\0" + payload)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()
