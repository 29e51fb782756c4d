"""The least of an HTTP client that keeps its connection: load tests measure the server, not a client library."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RawHttp:
    """One connection, one request at a time."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> RawHttp:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        return self

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def post(self, path: str, body: dict[str, Any]) -> Answer:
        status, headers = await self._send(path, body)
        return Answer(status, headers, b"".join([chunk async for chunk in self._body(headers)]))

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """The body's chunks as they come. Raises ConnectionError for any status but 200."""
        status, headers = await self._send(path, body)
        if status != 200:
            raise ConnectionError(f"{status}: {b''.join([c async for c in self._body(headers)])!r}")
        async for chunk in self._body(headers):
            yield chunk

    async def _send(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        assert self._reader is not None
        assert self._writer is not None
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._writer.write(head.encode() + content)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines if line)
        return int(first.split()[1]), {name.lower(): value for name, value in pairs}

    async def _body(self, headers: dict[str, str]) -> AsyncIterator[bytes]:
        assert self._reader is not None
        if headers.get("transfer-encoding") != "chunked":
            yield await self._reader.readexactly(int(headers.get("content-length", "0")))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readuntil(b"\r\n")
