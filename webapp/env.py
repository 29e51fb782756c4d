"""Reads settings from environment variables: typed, strict, one sentence per mistake. Knows nothing of Django.

Every variable NAME may instead be given as NAME_FILE, a file whose content (without the trailing line
break) is the value: that is how container platforms hand over secrets.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit


class SettingsError(Exception):
    """A setting is wrong; the message is one sentence that says which and what to do."""


class Env:
    """A view of the environment; `get` methods raise SettingsError, never anything else."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def raw(self, name: str) -> str | None:
        """The variable's text, or None where it is unset or empty."""
        value, file = self._environ.get(name), self._environ.get(f"{name}_FILE")
        if value and file:
            raise SettingsError(f"{name} and {name}_FILE are both set: keep one of them.")
        if file:
            try:
                return Path(file).read_text(encoding="utf-8").rstrip("\r\n") or None
            except OSError as error:
                raise SettingsError(
                    f"{name}_FILE names {file}, which cannot be read ({error.strerror}): "
                    "let the user that runs this read it, or correct the name."
                ) from error
            except UnicodeDecodeError as error:
                raise SettingsError(
                    f"{name}_FILE names {file}, which is not text in UTF-8: name another file."
                ) from error
        return value or None

    def str(self, name: builtins.str, default: builtins.str) -> builtins.str:
        value = self.raw(name)
        return default if value is None else value

    def choice(
        self, name: builtins.str, choices: tuple[builtins.str, ...], default: builtins.str
    ) -> builtins.str:
        value = self.str(name, default)
        if value not in choices:
            raise SettingsError(f"{name} is {value!r}, but must be one of: {', '.join(choices)}.")
        return value

    def bool(self, name: builtins.str, default: builtins.bool) -> builtins.bool:
        value = self.raw(name)
        if value is None:
            return default
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        if value.lower() not in words:
            raise SettingsError(f"{name} is {value!r}, but must be true or false.")
        return words[value.lower()]

    def int(
        self, name: builtins.str, default: builtins.int, *, low: builtins.int = 0, high: builtins.int = 2**31
    ) -> builtins.int:
        value = self.raw(name)
        if value is None:
            return default
        if not re.fullmatch(r"-?\d{1,12}", value):
            raise SettingsError(f"{name} is {value!r}, but must be a whole number.")
        number = int(value)
        if not low <= number <= high:
            raise SettingsError(f"{name} is {number}, but must be between {low} and {high}.")
        return number

    def list(self, name: builtins.str, default: tuple[builtins.str, ...] = ()) -> builtins.list[builtins.str]:
        value = self.raw(name)
        if value is None:
            return [*default]
        return [part.strip() for part in value.split(",") if part.strip()]

    def url(self, name: builtins.str, schemes: tuple[builtins.str, ...]) -> builtins.str | None:
        """A URL whose scheme is one of `schemes`, or None where unset."""
        value = self.raw(name)
        if value is not None and value.split("://", 1)[0] not in schemes:
            raise SettingsError(f"{name} must start with {' or '.join(s + '://' for s in schemes)}.")
        try:
            _ = urlsplit(value or "").port
        except ValueError:
            # What is taken for a port may be a password: nobody repeats it.
            raise SettingsError(
                f"{name} cannot be understood: its port must be a number up to 65535, and / ? # [ ] in a password are "
                "written as %2F %3F %23 %5B %5D."
            ) from None
        return value

    def path(self, name: builtins.str, default: Path) -> Path:
        value = self.raw(name)
        return (default if value is None else Path(value).expanduser()).resolve()


def _long_secret() -> str:
    return secrets.token_urlsafe(48)


def generated_secret(path: Path, *, make: Callable[[], str] = _long_secret, least: int = 32) -> str:
    """The secret kept in `path`, made on first use and readable by its owner only; safe when processes race.

    `make` makes a new one; what is shorter than `least` letters is no usable secret.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f"{path.name}.{os.getpid()}")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(make())
            # A link is made whole or not at all, so no process can read half a secret; the first one wins.
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be made or read ({error.strerror}): set FLYWHEEL_HOME to a folder you own."
        ) from error
    if len(text) < least:
        raise SettingsError(f"{path} holds no usable secret: delete it, and a new one is made.")
    return text
