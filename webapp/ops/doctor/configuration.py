"""The settings: what is unknown, half set, or set to something that works against itself."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from django.conf import settings

from webapp import coherence
from webapp.ops.doctor.finding import Finding, ok, problem, warning
from webapp.ops.variables import VARIABLES

_METADATA = ipaddress.IPv4Address("169.254.169.254")
_LEAST_TOKEN = 16


def check(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    environ = os.environ if environ is None else environ
    # Wrong values end every command with their sentence before this runs.
    yield ok("settings", f"State is kept in {settings.FLYWHEEL_HOME}; people come to {settings.SITE_URL}.")
    yield from unknown_variables(environ)
    yield from hosts()
    yield from mail()
    yield from secrets()
    yield from proxies(environ)
    yield from outbound()
    yield from open_broker()
    if settings.DEBUG:
        yield warning("settings", "DEBUG is on: errors show code and settings to visitors.", "Unset DEBUG.")


def unknown_variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Where the right one is missing, no process starts (`coherence.refuse_misspelt`); these are set besides."""
    for unknown in coherence.unknown_variables(environ, VARIABLES):
        advice = f"Did you mean {unknown.meant}?" if unknown.meant else "README.md lists the known ones."
        yield warning("settings", f"{unknown.name} is set, but no such setting exists.", advice)


def hosts() -> Iterator[Finding]:
    parts = urlsplit(settings.SITE_URL)
    host = parts.hostname or ""
    allowed: list[str] = settings.ALLOWED_HOSTS
    if "*" in allowed:
        yield warning(
            "hosts",
            "ALLOWED_HOSTS allows every name, so links in mails can be forged.",
            "Name your hosts instead.",
        )
    elif not coherence.is_allowed(host, allowed):  # of a SITE_URL that was not given
        yield problem(
            "hosts",
            f"SITE_URL says people come to {host}, but ALLOWED_HOSTS does not name it.",
            f"Add {host} to ALLOWED_HOSTS, or set SITE_URL.",
        )
    if parts.scheme == "http" and host not in coherence.LOCAL:
        yield warning(
            "hosts",
            f"People come to {host} without TLS: passwords and messages can be read on the way.",
            "Put a proxy that speaks HTTPS in front, and set SITE_URL to its https:// address.",
        )
    elsewhere = [name for name in allowed if _is_name(name)]
    if parts.scheme == "http" and host in coherence.LOCAL and elsewhere:
        yield warning(
            "hosts",
            f"ALLOWED_HOSTS lets people come to {elsewhere[0]}, but SITE_URL is {settings.SITE_URL}: links in mails "
            "lead there, and behind a proxy that speaks HTTPS cookies are not kept to it.",
            "Set SITE_URL to the address people use.",
        )
    if settings.HOST not in coherence.LOCAL and {name.strip("[]") for name in allowed} <= coherence.LOCAL:
        yield warning(
            "hosts",
            f"The site listens on {settings.HOST}, but answers only to the name localhost.",
            "Add the names or addresses people type to ALLOWED_HOSTS.",
        )


def _is_name(host: str) -> bool:
    """Of another machine than this one, rather than an address or the pattern for all."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host not in coherence.LOCAL and host != "*"
    return False


def proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    if "*" in environ.get("FORWARDED_ALLOW_IPS", "").split(","):
        yield warning(
            "hosts",
            "FORWARDED_ALLOW_IPS=* believes whatever address anybody says they come from.",
            "Name the proxy's own address.",
        )


def outbound() -> Iterator[Finding]:
    """Where a webhook could ask the machine's own cloud for its keys."""
    if settings.OUTBOUND_ALLOW.address(_METADATA):
        yield warning(
            "webhooks",
            f"OUTBOUND_ALLOW lets webhooks reach {_METADATA}, where clouds give out credentials.",
            "Name the hosts they are meant for.",
        )


def open_broker() -> Iterator[Finding]:
    parts = urlsplit(settings.REDIS_URL)
    if not parts.password and (parts.hostname or "localhost") not in coherence.LOCAL:
        yield warning(
            "broker",
            f"The broker on {parts.hostname} asks for no password: whoever reaches it writes to people's pages.",
            "Set requirepass there, and REDIS_URL=redis://:password@host.",
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
    if settings.METRICS_TOKEN and len(settings.METRICS_TOKEN) < _LEAST_TOKEN:
        yield warning("secrets", "METRICS_TOKEN is short enough to be guessed.", "Use 32 random letters.")
    for name in ("secret_key", "broker/password", "setup_code", "db.sqlite3"):
        path = settings.FLYWHEEL_HOME / name
        if path.exists() and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield problem("secrets", f"{path} can be read by other users.", f"Run: chmod 600 {path}")
