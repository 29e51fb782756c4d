"""What every test of accounts needs: cheap passwords, a home folder of its own, browsers with somebody in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from webapp.accounts.models import User


@pytest.fixture(autouse=True)
def quick(settings: Settings, tmp_path: Path) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.FLYWHEEL_HOME = tmp_path


@pytest.fixture
def logged_in() -> Callable[[User], Client]:
    """A browser in which a person is logged in."""

    def log_in(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return log_in
