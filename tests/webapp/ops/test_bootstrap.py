"""Setting up: skipped when nothing changed, and a sentence where a person has to do something."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import ROOT
from webapp.ops import bootstrap


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What would be run, in a folder of its own; every command succeeds."""
    asked: list[list[str]] = []

    def run(what: str, command: list[str], environment: object = None) -> tuple[int, list[str]]:
        asked.append(command)
        (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv" / "bin" / "python").touch()
        return 0, []

    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv" / ".installed")
    monkeypatch.setattr(bootstrap, "run", run)
    return asked


def test_the_second_time_nothing_is_installed_until_the_dependencies_change(
    commands: list[list[str]], tmp_path: Path
) -> None:
    bootstrap.environment()
    assert [command[2] for command in commands] == ["venv", "pip"]
    commands.clear()
    bootstrap.environment()
    assert commands == []
    (tmp_path / "constraints.txt").write_text("two")
    bootstrap.environment()
    assert commands[-1][2] == "pip"


def test_a_failed_installation_is_tried_again_and_says_what_pip_said(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    working = bootstrap.run
    monkeypatch.setattr(bootstrap, "run", lambda what, command: (int("pip" in command), ["no space left"]))
    with pytest.raises(SystemExit, match=r"could not be installed(.|\n)*no space left"):
        bootstrap.environment()
    monkeypatch.setattr(bootstrap, "run", working)
    bootstrap.environment()
    assert commands[-1][2] == "pip"


def test_a_missing_system_package_is_named_where_it_may_not_be_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="need Chromium: install the package chromium"):
        bootstrap.browser()


def test_an_old_python_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed"):
        bootstrap.main()


def test_even_an_old_python_can_read_the_file() -> None:
    source = (ROOT / "webapp" / "ops" / "bootstrap.py").read_text()
    ast.parse(source, feature_version=(3, 7))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Collecting torch==2.8.0 (from flywheel)", "collecting torch==2.8.0 (from flywheel)"),
        ("  Downloading torch-2.8.0.whl (90 MB)", "downloading torch-2.8.0.whl (90 MB)"),
        ("Installing collected packages: amqp, celery, torch", "unpacking 3 packages"),
        ("WARNING: Location 'x' is ignored", ""),
        ("Successfully uninstalled setuptools-65.5.0", ""),
    ],
)
def test_while_it_installs_only_what_goes_on_is_shown(line: str, said: str) -> None:
    assert bootstrap.doing(line) == said


def test_manage_py_runs_in_the_environment_whatever_python_is_asked(tmp_path: Path) -> None:
    manage = Path(shutil.copy(ROOT / "manage.py", tmp_path))
    bare = [sys.executable, "-I", "-S", str(manage), "doctor"]
    answer = subprocess.run(bare, capture_output=True, text=True)
    assert answer.stderr == "flywheel: nothing is installed yet: run `make setup` first.\n"
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "ours runs $*"\n')
    python.chmod(0o700)
    answer = subprocess.run(bare, capture_output=True, text=True)
    assert answer.stdout == f"ours runs {manage} doctor\n"
