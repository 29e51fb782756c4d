"""Which pages may open websockets: this site's own. Knows nothing of who is logged in.

Browsers send cookies along with any page's socket, cookies know no ports, and sockets no CSRF token: another service
on the same host name would speak for whoever visits it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.http.request import validate_host

_PORTS = {"http": 80, "https": 443}


class SameOriginValidator:
    """Lets through handshakes whose Origin is the host they were sent to, or SITE_URL, and denies all others."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        allowed = is_own_origin(_header(scope, b"origin"), _header(scope, b"host"))
        return await (self.application if allowed else WebsocketDenier())(scope, receive, send)


def is_own_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        here = urlsplit(f"{parts.scheme}://{host}")
        own = urlsplit(settings.SITE_URL)
        if parts.scheme not in _PORTS or not parts.hostname:
            return False
        if _place(parts) == _place(own) and parts.scheme == own.scheme:
            return True
        return _place(parts) == _place(here) and validate_host(_domain(parts), settings.ALLOWED_HOSTS)
    except ValueError:
        return False


def _place(parts: Any) -> tuple[str, int]:
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _domain(parts: Any) -> str:
    return f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname


def _header(scope: dict[str, Any], name: bytes) -> str:
    return next((value.decode("latin1") for key, value in scope["headers"] if key == name), "")
