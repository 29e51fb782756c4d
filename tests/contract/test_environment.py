"""Every environment variable is read by the code, listed for the doctor, and explained in the README; no other is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.services import ROOT
from webapp.ops.variables import VARIABLES

# What systems, Python and torchrun tell processes; nobody sets them for us.
THEIRS = {"LD_LIBRARY_PATH", "PYTHONPATH", "LOCAL_RANK", "RANK", "WORLD_SIZE"}
READERS = {"raw", "str", "choice", "bool", "int", "list", "url", "path"}
# Names that are read in a loop over a tuple rather than one by one.
NAME = re.compile(r"[A-Z][A-Z0-9_]{2,}")


def read_by_code() -> set[str]:
    """Names given to a method of `env` or to os.environ.get, or standing in a tuple that is read with `env`."""
    found: set[str] = set()
    for path in [
        *ROOT.glob("webapp/**/*.py"),
        *ROOT.glob("inference/**/*.py"),
        *ROOT.glob("training/**/*.py"),
    ]:
        found |= _read_by(path)
    return found - THEIRS


def _read_by(path: Path) -> set[str]:
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if ast.unparse(node.func) == "os.environ.get" and isinstance(node.args[0], ast.Constant):
            found.add(str(node.args[0].value))
            continue
        owner = node.func.value
        if not (
            isinstance(owner, ast.Name) and owner.id == "env" and node.func.attr in READERS and node.args
        ):
            continue
        argument = node.args[0]
        if isinstance(argument, ast.Constant):
            found.add(str(argument.value))
        else:
            found |= {
                element.value
                for group in ast.walk(tree)
                if isinstance(group, ast.Tuple)
                for element in group.elts
                if isinstance(element, ast.Constant)
                and isinstance(element.value, str)
                and NAME.fullmatch(element.value)
            }
    return found


def explained_in_readme() -> set[str]:
    text = (ROOT / "README.md").read_text()
    table = text.split("## Configuration", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)`", table, re.MULTILINE))


def test_the_readme_explains_exactly_the_variables_the_code_reads() -> None:
    assert explained_in_readme() == read_by_code()


def test_the_doctor_knows_exactly_the_variables_the_code_reads() -> None:
    assert set(VARIABLES) == read_by_code()
