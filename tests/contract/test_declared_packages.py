"""What the site imports is among what a server installs: what only tests install is not there."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.services import ROOT

OURS = ("webapp", "training", "inference")


def test_a_server_installs_every_package_that_the_site_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    installed = with_what_they_need([*project["dependencies"], *extras["worker"], *extras["s3"]])
    providers = metadata.packages_distributions()
    lacking = {
        f"{path.relative_to(ROOT)} imports {package}"
        for ours in OURS
        for path in (ROOT / ours).rglob("*.py")
        for package in imported(path)
        if not installed & {canonicalize_name(name) for name in providers.get(package, [])}
    }
    assert not lacking


def imported(path: Path) -> Iterator[str]:
    """Packages of others that this file names, in its functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for package in (name.partition(".")[0] for name in names):
            if package not in sys.stdlib_module_names and package not in OURS:
                yield package


def with_what_they_need(requirements: Iterable[str]) -> set[str]:
    """Names of these packages, and of all that come along with them."""
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(text) for text in requirements]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras} - {of for known, of in seen if known == name}:
            seen.add((name, extra))
            try:
                needs = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # of another system, or Python
                continue
            for need in map(Requirement, needs):
                if need.marker is None or need.marker.evaluate({"extra": extra}):
                    todo.append(need)
    return {name for name, _ in seen}
