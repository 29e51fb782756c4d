"""deploy/systemd: units that systemd takes, each for a process of the site, with time to stop."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import LazySettings

from tests.deploy.compose_file import DEPLOY
from webapp.ops import start

UNITS = sorted((DEPLOY / "systemd").iterdir())
PYTHON = "/opt/flywheel/current/.venv/bin/python"


def read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser


PROCESSES = {
    command.rpartition(" ")[2]: read(unit)
    for unit in UNITS
    if "webapp.ops.start" in (command := read(unit).get("Service", "ExecStart", fallback=""))
}


def test_every_process_has_a_unit() -> None:
    assert PROCESSES.keys() == start.site().keys()


@pytest.mark.parametrize("role", PROCESSES)
def test_a_unit_has_few_rights_and_time_to_stop(role: str, settings: LazySettings) -> None:
    service = PROCESSES[role]["Service"]
    words = [*service["Environment"].split(), *service["ExecStart"].split()]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    settings.STOP_GRACE_SECONDS = int(given.get("STOP_GRACE_SECONDS", settings.STOP_GRACE_SECONDS))
    assert (service["User"], service["NoNewPrivileges"], service["ProtectSystem"]) == (
        "flywheel",
        "yes",
        "strict",
    )
    assert service["CapabilityBoundingSet"] == ""
    assert int(service["TimeoutStopSec"]) > start.site()[role].stop_seconds
    assert service["Restart"] == "always"
    assert PROCESSES[role]["Install"]["WantedBy"] == PROCESSES[role]["Unit"]["PartOf"] == "flywheel.target"


def test_training_leaves_nine_tenths_of_a_processor_to_each_other_unit() -> None:
    weights = {role: int(unit["Service"].get("CPUWeight", "100")) for role, unit in PROCESSES.items()}
    assert weights == dict.fromkeys(weights, 100) | {"training": 10}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_every_unit(tmp_path: Path) -> None:
    for unit in UNITS:
        # Programs have to be there.
        (tmp_path / unit.name).write_text(unit.read_text().replace(PYTHON, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (done.returncode, done.stderr) == (0, "")
