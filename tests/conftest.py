"""Shared fixtures: the cast. Alice owns a workspace, Bob is on her team, Charlie is an outsider with his own."""

from __future__ import annotations

import pytest

from webapp.accounts.models import Membership, Role, User, Workspace


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice@example.org", "correct horse 1", name="Alice")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob@example.org", "correct horse 2", name="Bob")


@pytest.fixture
def charlie(db: None) -> User:
    return User.objects.create_user("charlie@example.org", "correct horse 3", name="Charlie")


@pytest.fixture
def workspace(alice: User, bob: User) -> Workspace:
    """Alice's: she is the owner, Bob a member."""
    workspace = Workspace.objects.create(name="Acme")
    Membership.objects.create(workspace=workspace, user=alice, role=Role.OWNER)
    Membership.objects.create(workspace=workspace, user=bob, role=Role.MEMBER)
    return workspace


@pytest.fixture
def elsewhere(charlie: User) -> Workspace:
    """Charlie's own workspace."""
    workspace = Workspace.objects.create(name="Elsewhere")
    Membership.objects.create(workspace=workspace, user=charlie, role=Role.OWNER)
    return workspace
