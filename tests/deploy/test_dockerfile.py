"""deploy/Dockerfile without building it (`make image-steps` does): what is in it, and as whom it runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.deploy.compose_file import DEPLOY
from tests.deploy.dockerfile import environment_of, instructions, instructions_of, lineage, stages
from tests.services import ROOT
from webapp.ops import start

TARGETS = ("web", "worker-cpu", "worker-cuda")
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR"}


def required(*extras: str) -> set[str]:
    """Packages that deploy/requirements.py asks for."""
    done = subprocess.run(
        [sys.executable, "deploy/requirements.py", *extras],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {re.split(r"[\[<>=~ ]", line)[0].lower() for line in done.stdout.splitlines()}


def test_every_stage_builds_on_one_that_stands_before_it() -> None:
    assert {each.name for each in instructions()} == INSTRUCTIONS
    known: set[str] = set()
    for name, stage in stages().items():
        assert stage.base in known or stage.base.startswith("python:"), name
        for step in stage.instructions:
            assert step.flags.get("from", name) in {*known, name}
        known.add(name)
    assert set(TARGETS) <= known


def test_what_is_copied_is_there_and_nothing_else_is_sent_to_the_builder() -> None:
    copied = {
        source
        for step in instructions()
        if step.name == "COPY" and "from" not in step.flags
        for source in step.words[:-1]
    }
    for source in copied:
        assert (ROOT / source).exists(), source
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {line[1:] for line in rules if line.startswith("!")} == copied


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_one_process_as_nobody_and_can_be_asked_how_it_is(target: str) -> None:
    uid = instructions_of(target, "USER")[-1].text
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", uid)
    # Nothing is done as root after the last step that has to be.
    names = [each.name for stage in lineage(target) for each in stage.instructions]
    assert "RUN" not in names[len(names) - names[::-1].index("USER") :]
    assert instructions_of(target, "HEALTHCHECK")
    *_, module, role = instructions_of(target, "CMD")[-1].command
    assert module == "webapp.ops.start"
    assert role in start.site()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_knows_which_version_it_is(target: str) -> None:
    """From pyproject.toml beside the code: a backup says so."""
    beside = [step.words for step in instructions_of(target, "COPY") if "manage.py" in step.words]
    assert ["manage.py", "pyproject.toml", "./"] in beside


def test_no_secret_is_in_an_image() -> None:
    for step in instructions():
        if step.name in ("ARG", "ENV"):
            assert not re.search(r"SECRET|PASSWORD|TOKEN|KEY|DATABASE_URL|REDIS_URL", step.text), step


@pytest.mark.parametrize("target", TARGETS)
def test_packages_come_in_the_versions_that_were_tested(target: str) -> None:
    copied_from = {step.flags["from"] for step in instructions_of(target, "COPY") if "from" in step.flags}
    installs = [
        step.text
        for stage in copied_from
        for step in instructions_of(stage, "RUN")
        if "pip install" in step.text
    ]
    assert installs
    assert all("-c constraints.txt -r" in text for text in installs)
    with_models = any("requirements.py worker" in text for text in installs)
    assert with_models == (target != "web")


def test_the_web_image_has_no_torch_and_those_of_workers_have() -> None:
    assert {"django", "uvicorn", "celery"} <= required()
    assert not {"torch", "numpy", "tokenizers", "safetensors"} & required()
    assert {"django", "torch", "tokenizers", "pyarrow"} <= required("worker")


def test_what_is_written_lies_in_the_state_folder_and_tmp() -> None:
    for target in TARGETS:
        environment = environment_of(target)
        assert environment["FLYWHEEL_HOME"] == environment["HOME"] == "/var/lib/flywheel"
        assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
