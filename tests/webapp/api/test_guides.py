"""The guides, and every example in them, run as a customer would: in a shell and in Python, against a live site."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.test import Client

from inference.catalog import DEMO
from tests.inference.tiny_models import save_model
from tests.services import Site
from tests.webapp.api.live_clients import key_of
from webapp.accounts.models import User, Workspace
from webapp.api.guide_views import filled_in, guides

_EXAMPLE = re.compile(r"```(bash|python)\n(.+?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(language, code, id=f"{guide.slug}-{number}-{language}")
    for guide in guides().values()
    for number, (language, code) in enumerate(_EXAMPLE.findall(guide.text))
]


def tiny_model(site: Site) -> str:
    """The name of one that learns in no time."""
    folder = site.home / "models" / "tiny"
    if not folder.exists():
        folder.mkdir(parents=True)
        save_model(folder)
        site.manage("models", "add", str(folder), "--name", "tiny")
    return "tiny"


@pytest.mark.timeout(420)  # one of them trains a model
@pytest.mark.parametrize(("language", "code"), EXAMPLES)
def test_every_example_of_the_guides_runs(language: str, code: str, model_site: Site, tmp_path: Path) -> None:
    # What trains takes a minute with the demo model, which test_live_fine_tuning.py gives it.
    model = tiny_model(model_site) if "fine_tuning" in code else DEMO.name
    code = filled_in(code, site=model_site.base_url, model=model)
    # --fail-with-body: an answer that is an error is one for curl, too.
    shell = ["bash", "-euc", code.replace("curl -sS", "curl -sS --fail-with-body")]
    command = [sys.executable, "-c", code] if language == "python" else shell
    environment = {**os.environ, "FLYWHEEL_API_KEY": key_of(model_site)}
    if "fine_tuning" in code or "/datasets" in code:
        model_site.start_data()
    if "fine_tuning" in code:
        model_site.start_training()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), done.stderr


@pytest.mark.django_db
def test_anybody_reads_the_guides_and_examples_name_this_site(
    client: Client, alice: User, workspace: Workspace
) -> None:
    for guide in guides().values():
        page = client.get(f"/docs/{guide.slug}/").content.decode()
        assert guide.title in page
        assert "{site}" not in page
        assert "http://localhost:8000/" in page
    client.force_login(alice)
    assert client.get("/docs/", follow=True).status_code == 200
    assert client.get("/docs/nothing/").status_code == 404


@pytest.mark.django_db
def test_the_page_on_which_the_api_is_tried_takes_all_it_needs_from_this_site(
    client: Client, alice: User, workspace: Workspace
) -> None:
    page = client.get("/v1/docs").content.decode()
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any("swagger-ui-bundle" in address for address in named)
    for address in named:
        assert finders.find(address.removeprefix("/static/")), address
    assert (
        json.loads(page.split('id="swagger-settings">')[1].split("</script>")[0])["url"] == "/v1/openapi.json"
    )
