"""What goes for good when its time is over goes by a clock that has proved itself: not by one that was just set, and
not by that of a machine that began in a wrong year."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from inference import model_services, model_storage
from inference.models import ServedModel
from tests.clocks import SetClock, set_clock, time_passes  # noqa: F401
from training import storage, uploads
from training import tasks as training
from training.models import Dataset, SourceFile
from webapp.accounts.models import Invitation, User, Workspace
from webapp.api import tasks as api
from webapp.api.models import IdempotentRequest, Webhook, Widget, WidgetSession
from webapp.chat.models import Conversation
from webapp.core import clock, contents, shared_storage
from webapp.env import Env
from webapp.ops import tasks as ops

pytestmark = pytest.mark.django_db

YEARS = timedelta(days=3650)
Left = Callable[[], dict[str, int]]


@pytest.fixture
def left(settings: Any, tmp_path: Path, alice: User, workspace: Workspace) -> Left:
    """Something of everything that goes by itself, none of it old; how much of it is left."""
    settings.FLYWHEEL_HOME = tmp_path / "home"
    settings.STORAGES = settings.STORAGES | shared_storage.configuration(
        Env({"STORAGE_URL": f"file://{tmp_path}/shared"})
    )
    settings.RETENTION_CONVERSATIONS_DAYS = settings.RETENTION_INVITATIONS_DAYS = 30
    model = ServedModel.objects.create(
        name="scripted", path="scripted", digest="0" * 64, architecture="scripted", context_length=100, parameters=1,
        size_bytes=1, is_default=True,
    )  # fmt: skip
    now = timezone.now()
    Conversation.objects.create(workspace=workspace, user=alice, title="Hello", model=model, updated_at=now)
    Invitation.objects.create(workspace=workspace, token_hash="0", expires_at=now)
    Client().force_login(alice)
    widget = Widget.objects.create(workspace=workspace, name="w")
    WidgetSession.objects.create(widget=widget, token_hash="0", seen_at=now)
    IdempotentRequest.objects.create(workspace=workspace, user=alice, key="k", fingerprint="0")
    Webhook.objects.create(
        workspace=workspace, name="w", url="https://a.example", secret="s", previous_secret="p",
        previous_until=now + timedelta(days=1),
    )  # fmt: skip
    uploads.begin_upload(dataset=Dataset.objects.create(workspace=workspace, name="d"), name="a", size=10)
    arriving = storage.incoming_folder() / "arriving"
    arriving.parent.mkdir(parents=True, exist_ok=True)
    arriving.touch()
    adapter = model_storage.located("adapters") / str(uuid.uuid4())
    adapter.mkdir(parents=True)
    contents.publish(model_storage.CONTENTS, "lost", [arriving])

    def count() -> dict[str, int]:
        return {
            "conversations": Conversation.objects.count(),
            "invitations": Invitation.objects.count(),
            "log-ins": Session.objects.count(),
            "widgets' conversations": WidgetSession.objects.count(),
            "keys": IdempotentRequest.objects.count(),
            "secrets": Webhook.objects.exclude(previous_secret="").count(),
            "uploads": SourceFile.objects.count(),
            "arriving": arriving.exists(),
            "adapters": adapter.exists(),
            "stored": len(shared_storage.listed(model_storage.CONTENTS)[1]),
        }

    return count


def sweep() -> None:
    """All that deletes by the clock."""
    ops.retain_all()
    api.sweep_widgets()
    api.sweep_idempotency()
    api.prune_webhooks()
    training.reap()
    model_services.remove_orphans()


@pytest.mark.parametrize("by", [YEARS, -YEARS], ids=["forward", "back"])
def test_a_clock_that_was_set_deletes_nothing(left: Left, set_clock: SetClock, by: timedelta) -> None:  # noqa: F811
    before = left()
    assert set(before.values()) == {1}
    set_clock(by)
    sweep()
    assert left() == before


def test_a_machine_that_began_in_a_wrong_year_deletes_nothing(
    left: Left,
    time_passes: SetClock,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = left()
    time_passes(YEARS)  # nobody here has seen how
    monkeypatch.setattr(clock, "_watched_since", None)
    sweep()
    assert left() == before


def test_a_host_whose_own_clock_is_years_ahead_deletes_nothing(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own clock; the one that all hosts share is right."""
    right = timezone.now()
    before = left()
    monkeypatch.setattr(clock, "_ask", lambda: right)
    monkeypatch.setattr(timezone, "now", lambda: right + YEARS)
    sweep()
    assert left() == before


def test_what_its_time_has_run_out_for_goes(left: Left, time_passes: SetClock) -> None:  # noqa: F811
    assert set(left().values()) == {1}
    time_passes(YEARS)
    sweep()
    assert set(left().values()) == {0}
