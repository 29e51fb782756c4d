"""deploy/README.md names only what there is: units, services, settings."""

from __future__ import annotations

import re

from tests.deploy.compose_file import DEPLOY, compose_file, read_env_file
from tests.deploy.nginx import TEMPLATE, render

GUIDE = (DEPLOY / "README.md").read_text()
SERVICES = compose_file(read_env_file(DEPLOY / "env.example"))["services"]


def test_every_unit_it_names_is_there() -> None:
    named = set(re.findall(r"\bflywheel(?:-\w+(?:@\w*)?|\.target)", GUIDE))
    named = {re.sub(r"@\w*", "@", name) for name in named}
    units = {unit.name.removesuffix(".service") for unit in (DEPLOY / "systemd").iterdir()}
    volumes = {"flywheel_database", "flywheel_state", "flywheel_broker", "flywheel_acme"}
    # A unit's name with something else behind it is the beginning of a backup's.
    assert units <= named
    assert {name for name in named if name not in units} <= {*volumes, "flywheel-DATE"}


def test_every_service_it_names_is_there() -> None:
    lines = re.findall(r"docker compose (?:up|run|exec|logs)([^`\n#;]*)", GUIDE)
    named = {word for line in lines for word in line.split() if word in SERVICES}
    assert {"manage", "migrate", "proxy", "inference", "inference-gpu", "database", "redis"} <= named
    looped = re.search(r"for each in ([\w -]+); do docker compose", GUIDE)
    assert looped
    replaced = set(looped[1].split())
    # All that is ours or faces people is replaced, but what has its own versions, and what is run by hand.
    cpu = {name for name, service in SERVICES.items() if "cpu" in service.get("profiles", ["cpu"])}
    assert replaced == cpu - {"database", "redis", "migrate"}


def test_the_proxys_template_is_filled_in_by_what_it_says() -> None:
    listed = re.search(r"envsubst '([^']+)'", GUIDE)
    assert listed
    names = {name.removeprefix("$") for name in listed[1].split()}
    exported = set(
        re.findall(r"(?<=[ t])([A-Z_]+)=", "\n".join(re.findall(r"^    export .*$", GUIDE, re.MULTILINE)))
    )
    assert names == exported == SERVICES["proxy"]["environment"].keys()
    filled = render(TEMPLATE.read_text(), dict.fromkeys(names, "x"))
    settings = [line for line in filled.splitlines() if not line.lstrip().startswith("#")]
    assert not any("${" in line for line in settings)
