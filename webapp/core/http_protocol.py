"""Uvicorn's protocol, for what never becomes a request: what is no HTTP, and heads that do not come.

Programs that speak JSON are told so in JSON. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import json

from django.utils.translation import gettext as _
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from webapp.core import stopping
from webapp.core.errors import UserError

# A connection on which nothing is asked costs a file descriptor, of which there are only so many.
HEAD_SECONDS = 30.0


class HttpProtocol(HttpToolsProtocol):
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_has_come()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_has_come()
        super().on_headers_complete()

    def shutdown(self) -> None:
        stopping.begin()
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        message = _("That is not a request: it is not HTTP/1.1, or its address or a header is too long.")
        self._refuse(UserError("bad_request", message))

    def _expect_head(self) -> None:
        self._head_has_come()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_has_come(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # The request before is still being answered, on the same connection.
            self._expect_head()
            return
        self._refuse(UserError("request_timeout", _("The request did not come."), status=408))

    def _refuse(self, error: UserError) -> None:
        body = json.dumps(error.as_json()).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            body
        )
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.close()
