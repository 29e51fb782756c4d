"""Files that are handed out as they are read, however long they are. Knows not what they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from django.http import StreamingHttpResponse

from webapp.core.plain_files import open_plain

_PIECE = 2**18  # bytes


def attachment(
    pieces: Iterator[bytes], *, name: str, size: int, content_type: str = "application/octet-stream"
) -> StreamingHttpResponse:
    """`pieces` are read in threads, each when it is sent, and are `size` bytes in all."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Length": str(size)}
    return StreamingHttpResponse(_in_threads(pieces), content_type=content_type, headers=headers)


def pieces_of(path: Path) -> Iterator[bytes]:
    """Of a plain file, and of nothing that a link leads to: some lie where a trainer wrote. Raises OSError."""
    with open_plain(path.parent, path) as file:
        while piece := file.read(_PIECE):
            yield piece


async def _in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
