"""deploy/compose.yaml: a file that Compose takes, whose services have no more rights than they need."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from compose_spec import PyCompose
from django.conf import LazySettings
from uvicorn.middleware.proxy_headers import _TrustedHosts

from tests.deploy.compose_file import DEPLOY, compose_file, read_env_file
from tests.deploy.dockerfile import instructions_of, stages
from webapp.ops import start

# As a newcomer's .env, and where a GPU is.
VARIABLES = read_env_file(DEPLOY / "env.example")
FILE = compose_file(VARIABLES)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
ONE_SHOTS = {"migrate", "manage"}


def seconds(duration: str) -> int:
    minutes, _, rest = duration.rpartition("m")
    return 60 * int(minutes or 0) + int(rest.removesuffix("s"))


def role_of(service: dict[str, Any]) -> str | None:
    _python, _m, module, *role = service["command"] if len(service["command"]) > 2 else (None,) * 3
    return role[0] if module == "webapp.ops.start" else None


def test_it_is_a_compose_file() -> None:
    filled = json.loads(json.dumps(FILE))
    for service in filled["services"].values():
        if "replicas" in service.get("deploy", {}):
            service["deploy"]["replicas"] = int(service["deploy"]["replicas"])
    PyCompose.from_json(json.dumps(filled)).validate()
    wrong = json.loads(json.dumps(filled))
    wrong["services"]["beat"]["networks"] = ["nowhere"]
    with pytest.raises(ValueError, match="nowhere"):
        PyCompose.from_json(json.dumps(wrong)).validate()


def test_what_has_to_be_said_is_asked_for_in_a_sentence() -> None:
    with pytest.raises(KeyError, match=r"say in \.env which address people use"):
        compose_file({})


def test_every_process_of_a_site_is_started_on_a_cpu_and_on_a_gpu() -> None:
    for profile in ("cpu", "gpu"):
        active = [each for each in OURS.values() if profile in each.get("profiles", [profile])]
        roles = [role for each in active if (role := role_of(each))]
        assert sorted(roles) == sorted(["web", *start.site()])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_little_and_is_asked_how_it_is(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))
    version = service["image"].rpartition(":")[2]
    assert version not in ("", "latest")
    if name not in ONE_SHOTS:
        assert service["restart"] == "unless-stopped"
        asks = service["healthcheck"].get("test") or instructions_of(
            service["build"]["target"], "HEALTHCHECK"
        )
        assert asks


def test_training_leaves_nine_tenths_of_a_processor_to_each_other_service() -> None:
    shares = {(role_of(service), service.get("cpu_shares", 1024)) for service in OURS.values()}
    assert {each for each in shares if each[1] != 1024 or each[0] == "training"} == {("training", 102)}


def test_training_has_a_gpu_for_each_process_of_a_job() -> None:
    for given, count in (({}, "1"), ({"TRAINING_PROCESSES": "8"}, "8")):
        training = compose_file(VARIABLES | given)["services"]["training-gpu"]
        (device,) = training["deploy"]["resources"]["reservations"]["devices"]
        assert device["count"] == count


def test_only_the_proxy_is_reached_from_outside_and_it_reaches_web_processes_alone() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    assert {name for name, service in SERVICES.items() if "edge" in service["networks"]} == {
        *("proxy", "web-a", "web-b")
    }
    assert SERVICES["proxy"]["networks"] == ["edge"]


@pytest.mark.parametrize("given", [{}, {"EDGE_SUBNET": "172.20.5.0/24"}])
def test_only_the_proxy_is_believed_when_it_says_for_whom_it_asks(given: dict[str, str]) -> None:
    file = compose_file({**VARIABLES, **given})
    (edge,) = (each["subnet"] for each in file["networks"]["edge"]["ipam"]["config"])
    believed = _TrustedHosts(file["services"]["web-a"]["environment"]["FORWARDED_ALLOW_IPS"])
    first, *_, last = ipaddress.ip_network(edge).hosts()
    assert str(first) in believed
    assert str(last) in believed
    assert "172.18.0.5" not in believed  # a neighbour in `site`


@pytest.mark.parametrize("name", OURS)
def test_a_process_of_ours_comes_from_its_image_with_secrets_as_files(name: str) -> None:
    service = OURS[name]
    assert service["build"]["target"] in stages()
    secrets = [value for key, value in service["environment"].items() if key.endswith("_FILE")]
    assert {value.removeprefix("/run/secrets/") for value in secrets} == set(service["secrets"])
    assert not {"SECRET_KEY", "DATABASE_URL", "REDIS_URL"} & service["environment"].keys()
    assert "state:/var/lib/flywheel" in service["volumes"]
    if name not in ONE_SHOTS:
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_commands_run_where_nothing_else_does() -> None:
    """`doctor`, where a service does not start, and on a host that has neither database nor broker."""
    assert not SERVICES["manage"]["depends_on"]


@pytest.mark.parametrize("name", OURS)
def test_what_is_set_in_the_settings_file_counts_as_it_stands(name: str) -> None:
    service = OURS[name]
    assert service["env_file"] == [{"path": ".env", "format": "raw"}]
    own = {key.removesuffix("_FILE") for key in service["environment"]}
    # These are what containers are, or are taken from the file.
    fixed = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "STOP_GRACE_SECONDS"}
    assert own - fixed == ({"HOST", "FORWARDED_ALLOW_IPS"} if role_of(service) == "web" else set())


@pytest.mark.parametrize("name", [name for name, service in OURS.items() if role_of(service)])
def test_a_process_gets_longer_to_stop_than_it_may_take(name: str, settings: LazySettings) -> None:
    role = role_of(OURS[name])
    assert role is not None
    for given in ({}, {"STOP_GRACE_SECONDS": "300"}):
        service = compose_file({**VARIABLES, **given})["services"][name]
        settings.STOP_GRACE_SECONDS = int(service["environment"]["STOP_GRACE_SECONDS"])
        # A job takes as long to save as it takes, whatever is asked for replies.
        wanted = 120 if "training" in name else int(given.get("STOP_GRACE_SECONDS", 25))
        assert wanted == settings.STOP_GRACE_SECONDS
        assert seconds(service["stop_grace_period"]) > start.site()[role].stop_seconds


def test_the_broker_keeps_what_it_is_given_and_shows_its_password_to_nobody() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert "--requirepass" not in options
    assert command[1] == "/run/secrets/redis.conf"


def test_secrets_that_are_there_stay(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "make-secrets", tmp_path)
    (tmp_path / "secrets").mkdir(mode=0o755)  # of somebody who was in a hurry

    def made() -> dict[str, str]:
        subprocess.run([tmp_path / "make-secrets", "chat.example.org"], check=True, capture_output=True)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first = made()
    assert set(first) == {Path(secret["file"]).name for secret in FILE["secrets"].values()}
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    (tmp_path / "secrets" / "redis_url").write_text("rediss://elsewhere")
    assert made() == first | {"redis_url": "rediss://elsewhere"}
    assert len({first["secret_key"], first["database_password"], first["redis.conf"].split()[1]}) == 3
    assert first["database_password"] in first["database_url"]
    # Containers read them as users of their own; on this machine the folder keeps all others out.
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o004 for path in (tmp_path / "secrets").iterdir())
