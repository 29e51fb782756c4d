"""Programs that call, each with a key. Alice is the owner, Bob a member, Charlie has a workspace of his own."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.test import Client

from inference.models import ServedModel
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import Scope, User, Workspace


def key_client(user: User, workspace: Workspace, *scopes: str) -> Client:
    _key, token = create_key(user=user, workspace=workspace, name="test", scopes=list(scopes or Scope.values))
    return Client(headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def alices(alice: User, workspace: Workspace) -> Client:
    """Sends a key of Alice's, the owner, with every scope."""
    return key_client(alice, workspace)


@pytest.fixture
def bobs(bob: User, workspace: Workspace) -> Client:
    """Sends a key of Bob's, a member, which can have one scope only."""
    return key_client(bob, workspace, Scope.CHAT)


@pytest.fixture
def charlies(charlie: User, elsewhere: Workspace) -> Client:
    """Sends a key of another workspace's owner."""
    return key_client(charlie, elsewhere)


class Page(Client):
    """A page of the site: sends its session, and with everything its CSRF token."""

    def __init__(self, user: User) -> None:
        super().__init__(enforce_csrf_checks=True)
        self.force_login(user)
        token = "t" * 32
        self.cookies[settings.CSRF_COOKIE_NAME] = token
        self.defaults["HTTP_X_CSRFTOKEN"] = token


@pytest.fixture
def alice_on_a_page(alice: User, workspace: Workspace) -> Page:
    return Page(alice)


@pytest.fixture
def model(db: None) -> ServedModel:
    """Everybody's, and the default."""
    return ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=8192, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip
