"""The settings: what is unknown, half set, or set to something that works against itself."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from django.conf import settings

from webapp.ops.doctor.finding import Finding, ok, problem, warning
from webapp.ops.variables import VARIABLES

# Beginnings that only this site uses: whatever starts so and is unknown is a slip of the hand.
OURS = ("FLYWHEEL_", "INFERENCE_", "OIDC_", "METRICS_", "WEB_P", "SIGNUP", "EMAIL_")


def check(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    environ = os.environ if environ is None else environ
    # Wrong values end every command with their sentence before this runs.
    yield ok("settings", f"State is kept in {settings.FLYWHEEL_HOME}; people come to {settings.SITE_URL}.")
    yield from unknown_variables(environ)
    yield from hosts()
    yield from mail()
    yield from secrets()
    if settings.DEBUG:
        yield warning("settings", "DEBUG is on: errors show code and settings to visitors.", "Unset DEBUG.")


def unknown_variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    known = {*VARIABLES, *(f"{name}_FILE" for name in VARIABLES), "FLYWHEEL_TEST_CACHE"}
    for name in sorted(environ):
        if name.startswith(OURS) and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            advice = f"Did you mean {close[0]}?" if close else "README.md lists the known ones."
            yield warning("settings", f"{name} is set, but no such setting exists.", advice)


def hosts() -> Iterator[Finding]:
    host = urlsplit(settings.SITE_URL).hostname or ""
    allowed: list[str] = settings.ALLOWED_HOSTS
    if "*" in allowed:
        yield warning(
            "hosts",
            "ALLOWED_HOSTS allows every name, so links in mails can be forged.",
            "Name your hosts instead.",
        )
    elif not any(
        host == name.strip("[]") or (name[:1] == "." and f".{host}".endswith(name)) for name in allowed
    ):
        yield problem(
            "hosts",
            f"SITE_URL says people come to {host}, but ALLOWED_HOSTS does not name it.",
            f"Add {host} to ALLOWED_HOSTS.",
        )
    local = {"localhost", "127.0.0.1", "[::1]"}
    if settings.HOST not in ("127.0.0.1", "localhost", "::1") and set(allowed) <= local:
        yield warning(
            "hosts",
            f"The site listens on {settings.HOST}, but answers only to the name localhost.",
            "Add the names or addresses people type to ALLOWED_HOSTS.",
        )


def mail() -> Iterator[Finding]:
    if settings.EMAIL_URL is None:
        yield warning(
            "mail",
            f"EMAIL_URL is not set: mail goes to files in {settings.FLYWHEEL_HOME / 'mail'}, not to people.",
            "Set EMAIL_URL=smtp://user:password@host:587 to send it.",
        )
    else:
        yield ok("mail", f"Mail goes out through {urlsplit(settings.EMAIL_URL).hostname or 'the console'}.")


def secrets() -> Iterator[Finding]:
    if len(settings.SECRET_KEY) < 32:
        yield problem(
            "secrets", "SECRET_KEY is too short to protect sessions.", "Use 50 random letters, or unset it."
        )
    for name in ("secret_key", "broker/password", "setup_code", "db.sqlite3"):
        path = settings.FLYWHEEL_HOME / name
        if path.exists() and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield problem("secrets", f"{path} can be read by other users.", f"Run: chmod 600 {path}")
