"""The code that proves who sets the site up has access to its machine. Knows nothing of accounts."""

from __future__ import annotations

import hmac
import re
import secrets
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest

from webapp.env import generated_secret

# No 0/o, 1/l/i: the code is read off a terminal and typed.
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_LOCAL_SITE = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
FORWARDING_HEADERS = (
    "HTTP_FORWARDED",
    "HTTP_X_REAL_IP",
    "HTTP_VIA",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_CF_CONNECTING_IP",
)


def _path() -> Path:
    return Path(settings.FLYWHEEL_HOME) / "setup_code"


def _new_code() -> str:
    # 4 x 4 letters of 31: 79 bits, so a code cannot be guessed even without the limit on attempts.
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(4))


def setup_code() -> str:
    """This site's set-up code, made on first use, readable by the site's owner only."""
    return generated_secret(_path(), make=_new_code, least=19)


def forget_setup_code() -> None:
    _path().unlink(missing_ok=True)


def is_setup_code(typed: str) -> bool:
    """Whether `typed` is the code; capitals, spaces and missing dashes are forgiven."""

    def plain(text: str) -> bytes:
        return re.sub(r"[\s-]", "", text).lower().encode()

    return hmac.compare_digest(plain(typed), plain(setup_code()))


def is_local(request: HttpRequest) -> bool:
    """Whether the request surely comes from this machine itself.

    A proxy on this machine makes everyone look local, and what it says of them can be made up: so any sign of one
    means "no" (HTTP/1.0, which only proxies still speak, is one), and so does a public SITE_URL or Host.
    """
    if request.META.get("REMOTE_ADDR") not in LOOPBACK or settings.HTTPS:
        return False
    if not _LOCAL_SITE.fullmatch(settings.SITE_URL):
        return False
    if not _LOCAL_SITE.fullmatch(f"http://{request.get_host()}"):
        return False
    if getattr(request, "scope", {}).get("http_version") == "1.0":
        return False
    forwarded = any(
        name in FORWARDING_HEADERS or name.startswith("HTTP_X_FORWARDED") for name in request.META
    )
    return not forwarded
