"""deploy/compose.yaml as Docker Compose reads it: merged, with its variables filled in. Knows nothing of containers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.services import ROOT

DEPLOY = ROOT / "deploy"
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}|\$(?P<plain>\w+)")


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value, a line each, as Compose, systemd and the shell agree on: no quotes, no blanks around the sign."""
    found = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name] = value
    return found


def fill_in(value: Any, variables: Mapping[str, str]) -> Any:
    """`${NAME}`, `${NAME:-default}`, `${NAME:?what to do}` and `$$`, everywhere below `value`.

    Raises KeyError for what is to be set, and for what has no default.
    """

    def replace(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name = found["name"] or found["plain"]
        if variables.get(name):
            return variables[name]
        if found["kind"] == "-":
            return str(found["rest"])
        raise KeyError(f"{name}: {found['rest'] or 'has no default'}")

    if isinstance(value, str):
        return _VARIABLE.sub(replace, value)
    if isinstance(value, list):
        return [fill_in(each, variables) for each in value]
    if isinstance(value, dict):
        return {name: fill_in(each, variables) for name, each in value.items()}
    return value


@cache
def _raw() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return {name: part for name, part in read.items() if not name.startswith("x-")}


def compose_file(variables: Mapping[str, str]) -> dict[str, Any]:
    """The whole file, without its extension fields."""
    filled: dict[str, Any] = fill_in(_raw(), variables)
    return filled
