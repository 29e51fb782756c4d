"""deploy/env.example: every setting, explained once, in values that the site takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.compose_file import DEPLOY, read_env_file
from tests.services import ROOT, minimal_environment
from webapp.ops.variables import VARIABLES

TEXT = (DEPLOY / "env.example").read_text()
# Read by Docker Compose, and by nothing of ours.
COMPOSE = {"COMPOSE_PROFILES", "REPLICAS", "IMAGE_TAG", "EDGE_SUBNET"}
_SETTING = re.compile(r"#?([A-Z][A-Z0-9_]+)=(\S*)")


def settings() -> list[tuple[str, str]]:
    return [(found[1], found[2]) for line in TEXT.splitlines() if (found := _SETTING.fullmatch(line))]


def test_every_setting_stands_there_once() -> None:
    names = [name for name, _ in settings()]
    assert sorted(names) == sorted({*VARIABLES, *COMPOSE})


def test_every_setting_is_explained_above_it() -> None:
    is_explained = False
    for line in TEXT.splitlines():
        if _SETTING.fullmatch(line):
            assert is_explained, line
        else:
            is_explained = line.startswith("# ")


def test_all_settings_at_once_are_ones_the_site_takes(tmp_path: Path) -> None:
    given = {name: value for name, value in settings() if name not in COMPOSE}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import webapp.settings as s; print(s.SITE_URL, s.OUTBOUND_ALLOW is not None)",
        ],
        cwd=ROOT,
        env=minimal_environment() | given | {"FLYWHEEL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "https://chat.example.org True", done.stderr


def test_what_is_switched_on_is_what_nobody_can_leave_as_it_is() -> None:
    assert set(read_env_file(DEPLOY / "env.example")) == {
        "SITE_URL",
        "SIGNUP",
        "COMPOSE_PROFILES",
        "REPLICAS",
    }


def test_compose_asks_for_no_variable_that_is_not_explained() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert asked == {
        "SITE_URL",
        "REPLICAS",
        "IMAGE_TAG",
        "EDGE_SUBNET",
        "STOP_GRACE_SECONDS",
        "TRAINING_PROCESSES",
    }


def test_no_value_has_letters_that_compose_or_systemd_read_as_something_else() -> None:
    assert not [value for _, value in settings() if re.search(r"""[$\\'"#]""", value)]
