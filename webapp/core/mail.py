"""From EMAIL_URL to Django's mail settings. Knows nothing of what is sent."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from webapp.env import SettingsError

_TLS = {"starttls": True, "none": False}
TIMEOUT_SECONDS = 20


def settings_of(url: str) -> dict[str, Any]:
    """`smtp://user:password@host:587?tls=starttls|none`, `smtps://...:465` or `console://`. Raises SettingsError.

    The messages never repeat the URL: it holds a password.
    """
    parts = urlsplit(url)
    if parts.scheme == "console":
        return {"EMAIL_BACKEND": "django.core.mail.backends.console.EmailBackend"}
    try:
        port = parts.port
    except ValueError:
        raise SettingsError("EMAIL_URL has a port that is not a number between 0 and 65535.") from None
    if not parts.hostname:
        raise SettingsError("EMAIL_URL names no server: write smtp://user:password@host:587.")
    if bool(parts.username) != bool(parts.password):
        raise SettingsError("EMAIL_URL has a user without a password, or the reverse: give both or neither.")
    if parts.path not in ("", "/"):
        raise SettingsError(
            "EMAIL_URL has a path after the server; special characters in a password are written as %2F."
        )
    query = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(query) - {"tls"}):
        raise SettingsError(f"EMAIL_URL has the unknown option {unknown[0]!r}: only tls is known.")
    tls = query.get("tls", [None])[-1]
    if tls is not None and tls not in _TLS:
        raise SettingsError(f"EMAIL_URL has tls={tls}, but must have tls=starttls or tls=none.")
    if parts.scheme == "smtps" and tls is not None:
        raise SettingsError(
            "EMAIL_URL starts with smtps://, which is encrypted from the start: leave tls away."
        )
    # A password must not travel in the clear unless somebody asked for it.
    starttls = parts.scheme == "smtp" and (_TLS[tls] if tls else bool(parts.username))
    return {
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": port or (465 if parts.scheme == "smtps" else 587 if starttls else 25),
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_TLS": starttls,
        "EMAIL_USE_SSL": parts.scheme == "smtps",
        "EMAIL_TIMEOUT": TIMEOUT_SECONDS,
    }
