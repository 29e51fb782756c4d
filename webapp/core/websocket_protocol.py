"""Uvicorn's protocol for websockets, for one whose handshake is under way when the process is told to end.

Uvicorn answers that with 500. Here the handshake is finished first, and the socket closed like any other: 1012,
"service restart", with which its page goes to another process. Knows nothing of what is said.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class WebsocketProtocol(WebSocketsSansIOProtocol):
    _is_to_leave = False

    def shutdown(self) -> None:
        if self.handshake_complete or self.close_sent:
            super().shutdown()
        else:
            self._is_to_leave = True

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self._is_to_leave and self.handshake_complete:
            self._is_to_leave = False
            self.shutdown()
