"""A folder of its own, a model to begin with, and a way to ask for a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from inference.models import ServedModel
from tests.webapp.api.data_work import make_base
from tests.webapp.api.fine_tuning.asking import JOBS, Ask


@pytest.fixture(autouse=True)
def home(settings: Settings, tmp_path: Path) -> Path:
    settings.FLYWHEEL_HOME = tmp_path
    return tmp_path


@pytest.fixture
def base(db: None) -> ServedModel:
    return make_base()


@pytest.fixture
def ask(alices: Client, base: ServedModel) -> Ask:
    """Asks for a job, and answers what is answered."""

    def ask(client: Client = alices, **asked: Any) -> Any:
        return client.post(JOBS, {"model": "tiny"} | asked, content_type="application/json")

    return ask
