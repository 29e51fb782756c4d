"""HTTP to addresses that people typed: not into networks that are not theirs to reach, and not for long.

The name is resolved here, every address it has is vetted, and the connection is made to one of those: between the check
and the use nothing can change (DNS rebinding), and TLS is still for the name. Each redirect is vetted in the same way.
No cookies, no proxies of the environment, nothing decompressed. Knows nothing of what is sent or why.

    answer = send("POST", url, headers={...}, content=body)      # raises OutboundError
    check_url(url)                                               # what can be said without looking anything up
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpcore
import httpx
from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from webapp.core.errors import UserError
from webapp.core.public_addresses import HOST_NAME, Address, Allowed, is_public

MAX_REDIRECTS = 3
_SECONDS = 10.0
_CONNECT_SECONDS = 4.0  # of one of several addresses
_MAX_BYTES = 2**16
_MAX_URL = 2000
# Others than these are services that are not HTTP's; from 1024 on everybody chooses for themselves.
_LOW_PORTS = (80, 443)
# Redirects that keep method and body. After the others a POST would become a GET, which is not what was to be sent.
_SAME_METHOD = (307, 308)
_REDIRECTS = (301, 302, 303, *_SAME_METHOD)

_SENTENCES = {
    "bad_url": gettext_noop("That is not an address that begins with https:// or http:// and names a host."),
    "credentials_in_url": gettext_noop("Leave the user name and password out of the address."),
    "bad_port": gettext_noop("Only the ports 80, 443 and from 1024 on can be used."),
    "address_refused": gettext_noop(
        "That address is not on the public internet. Whoever runs this site can allow it (OUTBOUND_ALLOW)."
    ),
    "name_unknown": gettext_noop("The host name could not be found."),
    "no_connection": gettext_noop("No connection could be made: nothing answers at that address."),
    "bad_certificate": gettext_noop("The encrypted connection failed: the certificate is not valid for it."),
    "timeout": gettext_noop("It took too long to answer."),
    "broken": gettext_noop("The connection broke off, or the answer was not HTTP."),
    "too_many_redirects": gettext_noop("It leads from address to address without end."),
    "unsafe_redirect": gettext_noop("It leads from an encrypted address to one that is not."),
}


class OutboundError(Exception):
    """Nothing came of it. `code` is stable, `sentence` English and translated by `_(sentence)`."""

    def __init__(self, code: str) -> None:
        self.code, self.sentence = code, _SENTENCES[code]
        super().__init__(self.sentence)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: httpx.Headers
    body: bytes  # the first `max_bytes` of it
    url: str  # what answered, after redirects


def check_url(url: str) -> None:
    """Raises UserError for what can be refused without looking a name up, with param "url"."""
    try:
        _parsed(url, _allowed())
    except OutboundError as error:
        raise UserError(error.code, _(error.sentence), param="url") from error


def send(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes = b"",
    seconds: float = _SECONDS,
    max_bytes: int = _MAX_BYTES,
    redirects: int = MAX_REDIRECTS,
) -> Answer:
    """One request, and where it is redirected with its method kept, up to `redirects` more; `seconds` for all of it.

    An answer of any status is an answer; one with another redirect, too. Raises OutboundError.
    """
    deadline, allowed = time.monotonic() + seconds, _allowed()
    given = {"Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close", **(headers or {})}
    for hop in range(redirects + 1):
        answer = _send_once(method, _parsed(url, allowed), given, content, max_bytes, deadline, allowed)
        target = answer.headers.get("Location", "")
        keeps_method = answer.status in _SAME_METHOD or method in ("GET", "HEAD")
        if answer.status not in _REDIRECTS or not target or not keeps_method:
            return answer
        if hop == redirects:
            raise OutboundError("too_many_redirects")
        before, url = url, _joined(url, target)
        if before.lower().startswith("https:") and not url.lower().startswith("https:"):
            raise OutboundError("unsafe_redirect")
    raise OutboundError("too_many_redirects")


def _allowed() -> Allowed:
    allowed: Allowed = settings.OUTBOUND_ALLOW
    return allowed


def _parsed(url: str, allowed: Allowed) -> httpx.URL:
    """Raises OutboundError for what is no address people may send this site to, whatever its name resolves to."""
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii").rstrip(".")
    except (httpx.InvalidURL, UnicodeError):
        raise OutboundError("bad_url") from None
    if parsed.scheme not in ("http", "https") or not host or len(url) > _MAX_URL or url != url.strip():
        raise OutboundError("bad_url")
    if parsed.userinfo:
        raise OutboundError("credentials_in_url")
    port, address = 443 if parsed.port is None else parsed.port, _as_address(host)
    if address is None and not HOST_NAME.fullmatch(host.lower()):
        raise OutboundError("bad_url")
    if "." not in host and address is None and not (allowed.host(host) or allowed.networks):
        raise OutboundError(
            "address_refused"
        )  # a name of this machine or of its network: "localhost", "redis"
    if address is not None and not (is_public(address) or allowed.address(address) or allowed.host(host)):
        raise OutboundError("address_refused")
    is_allowed = allowed.host(host) or (address is not None and allowed.address(address))
    if not (0 < port < 65536) or (not is_allowed and port not in _LOW_PORTS and port < 1024):
        raise OutboundError("bad_port")
    return parsed


def _as_address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _joined(url: str, target: str) -> str:
    try:
        return str(httpx.URL(url).join(target))
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise OutboundError("bad_url") from None


def _send_once(
    method: str,
    url: httpx.URL,
    headers: Mapping[str, str],
    content: bytes,
    max_bytes: int,
    deadline: float,
    allowed: Allowed,
) -> Answer:
    # Without a client, which would keep cookies and look at redirects before we do.
    request = httpx.Request(method, url, headers=headers, content=content or None)
    try:
        with GuardedTransport(deadline=deadline, allowed=allowed) as transport:
            response = transport.handle_request(request)
            body = b""
            for chunk in response.iter_raw() if max_bytes else ():
                body += chunk
                if len(body) >= max_bytes:
                    break
            response.close()
            return Answer(response.status_code, response.headers, body[:max_bytes], str(url))
    except httpx.TimeoutException as error:
        raise OutboundError("timeout") from error
    except httpx.ConnectError as error:
        raise OutboundError("bad_certificate" if _of_tls(error) else "no_connection") from error
    except (httpx.HTTPError, ValueError) as error:
        raise OutboundError("broken") from error


def _of_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


class GuardedTransport(httpx.HTTPTransport):
    """Connects to vetted addresses only, and is silent when its time is up. For one client and few requests."""

    def __init__(self, *, deadline: float, allowed: Allowed) -> None:
        """`deadline`: on time.monotonic()'s clock."""
        super().__init__(verify=_tls_context(), trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=_tls_context(), network_backend=_GuardedBackend(deadline, allowed)
        )


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """With the certificates that SSL_CERT_FILE names, if it does: an operator's own authority."""
    return httpx.create_ssl_context()


class _GuardedBackend(httpcore.NetworkBackend):
    def __init__(self, deadline: float, allowed: Allowed) -> None:
        self._deadline, self._allowed = deadline, allowed
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        last: Exception = OutboundError("name_unknown")
        for address in self._vetted(host, port):
            try:
                seconds = min(_left(self._deadline, httpcore.ConnectTimeout), _CONNECT_SECONDS)
                stream = self._plain.connect_tcp(str(address), port, seconds, None, socket_options)
                return _TimedStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    def _vetted(self, host: str, port: int) -> list[Address]:
        """Where the name leads. One address that is not public condemns all of them: such a name is a trap."""
        addresses = _resolve(host, port, _left(self._deadline, httpcore.ConnectTimeout))
        if not self._allowed.host(host):
            for address in addresses:
                if not (is_public(address) or self._allowed.address(address)):
                    raise OutboundError("address_refused")
        return addresses


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every wait ends with the deadline: an answer of one byte a second does not last."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = _left(self._deadline, httpcore.ConnectTimeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, late: type[Exception]) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise late("the time for all of it is up")
    return seconds


def _resolve(host: str, port: int, seconds: float) -> list[Address]:
    """What the system says. It cannot be told to hurry, so a thread that is left behind asks it."""
    found: queue.SimpleQueue[list[Address] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put(list(dict.fromkeys(ipaddress.ip_address(info[4][0]) for info in infos)))
        except OSError as error:
            found.put(error)
        except (UnicodeError, ValueError) as error:
            found.put(OSError(str(error)))

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise httpcore.ConnectTimeout("resolving") from None
    if isinstance(answer, OSError):
        raise OutboundError("name_unknown") from answer
    return answer
