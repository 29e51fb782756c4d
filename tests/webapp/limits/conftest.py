"""What tests of limits share: a model that nobody answers with, rules, and limits that know of no broker's absence."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from inference.models import ServedModel
from webapp.accounts import limits
from webapp.accounts.limit_rules import Limits, set_limits
from webapp.accounts.models import User, Workspace


@pytest.fixture(autouse=True)
def _broker_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test before did to it; and what a test does to it ends with that test."""
    monkeypatch.setattr(limits, "_away_until", 0.0)


@pytest.fixture
def model(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=8192, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip


def limit(
    workspace: Workspace, *, user_id: UUID | None = None, api_key_id: UUID | None = None, **numbers: Any
) -> None:
    """As Alice, the owner, sets it."""
    alice = User.objects.get(email="alice@example.org")
    set_limits(
        actor=alice,
        workspace_id=workspace.pk,
        user_id=user_id,
        api_key_id=api_key_id,
        limits=Limits(**numbers),
    )
