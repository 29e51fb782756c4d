"""What environment variables say together: one that is misspelt, two that contradict. Knows nothing of Django.

What would leave a site half started, or have it work on other data than its operator thinks, is refused by every
process, with a sentence; what works and may surprise is for `doctor` to say.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from webapp.env import SettingsError

# First words of settings that programs of others begin theirs with too; of these settings it is more that is only ours.
_SHARED = {"ALLOWED", "API", "AWS", "DATABASE", "LOG", "MODEL", "REDIS", "SECRET", "SITE", "WEB"}
_LONGER = ("API_MAX_", "LOG_FORMAT", "LOG_LEVEL", "MODEL_CACHE_", "SIGNUP", "WEB_P")
# Others have variables that are called nearly the same.
_COMMON = {"PORT", "HOST", "DEBUG", "LOG_LEVEL", "LOG_FORMAT"}
# Shorter ones are one slip from names of others: HOST from POST, DEBUG from DEBUG_.
_LEAST_NAME = 6  # letters
LOCAL = {"localhost", "127.0.0.1", "::1"}
LEAST_SECRET = 32  # letters


@dataclass(frozen=True)
class Unknown:
    """A variable that is set and that nothing reads; `meant` is the one it is nearly called like, or ""."""

    name: str
    meant: str


def _beginnings(known: Collection[str]) -> tuple[str, ...]:
    """What only this site's variables begin with: whatever does and is unknown is a slip of the hand."""
    words = {name.split("_")[0] for name in known if "_" in name} - _SHARED
    return (*(f"{word}_" for word in sorted(words)), *_LONGER)


def unknown_variables(environ: Mapping[str, str], known: Collection[str]) -> Iterator[Unknown]:
    """Those that begin like ours, and those that differ by one slip from one of ours."""
    names = {*known, *(f"{name}_FILE" for name in known)}
    tests_own = {"FLYWHEEL_TEST_CACHE"}
    ours = _beginnings(known)
    for name in sorted(environ.keys() - names - tests_own):
        if near := [one for one in names if _one_slip(name, one)]:
            yield Unknown(name, min(near))
        elif name.startswith(ours):
            shortened = sorted(one for one in names if one.startswith(name))
            yield Unknown(name, next(iter(shortened or difflib.get_close_matches(name, names, 1, 0.9)), ""))


def refuse_misspelt(environ: Mapping[str, str], known: Collection[str]) -> None:
    """Raises SettingsError where a variable of ours is missing and one that is nearly called so is set: the default
    in its place would be another database, or a limit that does not hold."""
    for unknown in unknown_variables(environ, known):
        base = unknown.meant.removesuffix("_FILE")
        is_set = environ.get(base) or environ.get(f"{base}_FILE")
        if base and base not in _COMMON and not is_set:
            raise SettingsError(
                f"{unknown.name} is set, but no such setting exists: did you mean {unknown.meant}? "
                "Rename it, or unset it."
            )


def _one_slip(name: str, known: str) -> bool:
    """One letter more, less, or other, or two that changed places; short names are too near each other."""
    if len(known) < _LEAST_NAME or abs(len(name) - len(known)) > 1 or name == known:
        return False
    at = next(
        (i for i, (a, b) in enumerate(zip(name, known, strict=False)) if a != b), min(len(name), len(known))
    )
    rest, wanted = name[at:], known[at:]
    swapped = rest[:2] == wanted[1::-1] and len(wanted) > 1 and rest[2:] == wanted[2:]
    return swapped or rest[1:] == wanted[1:] or rest[1:] == wanted or rest == wanted[1:]


@dataclass(frozen=True)
class Together:
    """What settings say, as far as one of them may contradict another."""

    debug: bool
    site_url: str  # "" where it is not given
    allowed_hosts: list[str]
    secret_key: str
    mail_is_sent: bool
    verification: str
    lease_seconds: int
    deadline_seconds: int


def refuse_contradictions(given: Together) -> None:
    """Raises SettingsError with the first one."""
    if given.site_url:
        _check_address(given)
    if len(given.secret_key) < LEAST_SECRET:
        raise SettingsError(
            f"SECRET_KEY has {len(given.secret_key)} letters, too few to protect sessions: "
            f"use {LEAST_SECRET} random ones or more, or unset it and one is made."
        )
    if given.verification == "mandatory" and not given.mail_is_sent:
        raise SettingsError(
            "EMAIL_VERIFICATION is mandatory, but without EMAIL_URL no mail is sent and nobody could log in: "
            "set EMAIL_URL, or EMAIL_VERIFICATION=optional."
        )
    if given.lease_seconds >= given.deadline_seconds:
        raise SettingsError(
            f"INFERENCE_LEASE_SECONDS is {given.lease_seconds} and INFERENCE_DEADLINE_SECONDS "
            f"{given.deadline_seconds}: a dead worker is noticed too late for its replies; make the lease shorter."
        )


def _check_address(given: Together) -> None:
    try:
        parts = urlsplit(given.site_url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host = ""
    if not host or parts.username is not None or parts.path or parts.query or parts.fragment:
        raise SettingsError(
            "SITE_URL must be a scheme and a host, with a port where it needs one, and nothing else: "
            "https://chat.example.org."
        )
    if given.debug and (parts.scheme == "https" or host not in LOCAL):
        raise SettingsError(
            f"DEBUG is on, but SITE_URL says that others reach this site at {host}, and DEBUG would show them its "
            "settings: unset DEBUG."
        )
    if not is_allowed(host, given.allowed_hosts):
        raise SettingsError(
            f"SITE_URL says people come to {host}, but ALLOWED_HOSTS does not name it: add {host} to ALLOWED_HOSTS."
        )


def is_allowed(host: str, allowed: Collection[str]) -> bool:
    """Whether ALLOWED_HOSTS lets a request to this host in."""
    return any(
        name in ("*", host, f"[{host}]") or (name[:1] == "." and f".{host}".endswith(name))
        for name in map(str.lower, allowed)
    )
