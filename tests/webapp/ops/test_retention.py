"""What has been kept for as long as the settings say goes, with all that belongs to it; everything else stays."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from inference.models import Generation, ServedModel, UsageDay
from training import storage
from training.models import Dataset, DatasetVersion, Job, SourceFile
from webapp.accounts.models import AuditEvent, Invitation, User, Workspace
from webapp.api.models import Completion, Webhook, WebhookDelivery
from webapp.chat.models import Conversation, Message
from webapp.ops.tasks import retain_all

KINDS = (
    "CONVERSATIONS",
    "API",
    "DATASETS",
    "CANCELLED",
    "FAILED",
    "WEBHOOKS",
    "USAGE",
    "AUDIT",
    "INVITATIONS",
)


@pytest.fixture
def keep(settings: LazySettings, tmp_path: Path) -> Callable[..., None]:
    """Sets days of what is named, and has everything else kept for good."""
    settings.FLYWHEEL_HOME = tmp_path

    def set_days(**days: int) -> None:
        for kind in KINDS:
            setattr(settings, f"RETENTION_{kind}_DAYS", days.get(kind, 0))

    set_days()
    return set_days


@pytest.fixture
def model(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="scripted",
        path="scripted",
        digest="0" * 64,
        architecture="scripted",
        context_length=100,
        parameters=1,
        size_bytes=1,
        is_default=True,
    )


def ago(days: float) -> Any:
    return timezone.now() - timedelta(days=days)


def said(*arguments: str) -> str:
    out = io.StringIO()
    call_command("retain", *arguments, stdout=out)
    return out.getvalue()


def generation(workspace: Workspace, model: ServedModel, **fields: Any) -> Generation:
    now = timezone.now()
    return Generation.objects.create(
        workspace=workspace, model=model, seed=1, deadline=now, sent_at=now, state="complete", **fields
    )


def conversation(workspace: Workspace, user: User, model: ServedModel, days: float) -> Conversation:
    made = Conversation.objects.create(
        workspace=workspace, user=user, title="Hello", model=model, updated_at=ago(days)
    )
    reply = generation(workspace, model, text="Good day.")
    Message.objects.create(conversation=made, position=0, role="user", text="Hello")
    Message.objects.create(conversation=made, position=1, role="assistant", generation=reply)
    return made


def test_conversations_go_with_their_messages_and_replies(
    keep: Callable[..., None], workspace: Workspace, alice: User, model: ServedModel
) -> None:
    conversation(workspace, alice, model, days=31)
    fresh = conversation(workspace, alice, model, days=29)
    retain_all()
    assert Conversation.objects.count() == 2, "0 keeps them for good"
    keep(CONVERSATIONS=30)
    assert said("--dry-run") == "1 conversations nobody went on with, older than 30 days: would be deleted\n"
    assert Conversation.objects.count() == 2
    retain_all()
    assert list(Conversation.objects.all()) == [fresh]
    assert set(Message.objects.values_list("conversation", flat=True)) == {fresh.pk}
    assert Generation.objects.count() == 1


def test_more_than_a_batch_goes_in_one_run(
    keep: Callable[..., None], workspace: Workspace, alice: User, model: ServedModel
) -> None:
    for _ in range(3):
        conversation(workspace, alice, model, days=31)
    Invitation.objects.bulk_create(
        Invitation(workspace=workspace, token_hash=f"{n:064}", expires_at=ago(31)) for n in range(250)
    )
    keep(CONVERSATIONS=30, INVITATIONS=30)
    text = said()
    assert "3 conversations" in text
    assert "250 invitations" in text
    assert not Conversation.objects.exists()
    assert not Invitation.objects.exists()


def test_stored_completions_go_with_what_was_said(
    keep: Callable[..., None], workspace: Workspace, alice: User, model: ServedModel
) -> None:
    for days in (8, 6):
        call = Completion.objects.create(
            workspace=workspace, user=alice, kind=Completion.Kind.values[0], model_name="scripted", store=True
        )
        Completion.objects.filter(pk=call.pk).update(created_at=ago(days))
        generation(workspace, model, purpose="api", call_id=call.pk)
    keep(API=7)
    retain_all()
    assert Completion.objects.count() == Generation.objects.count() == 1


def test_datasets_go_with_their_files_unless_a_fine_tune_learnt_from_them(
    keep: Callable[..., None],
    workspace: Workspace,
    model: ServedModel,
    django_capture_on_commit_callbacks: Callable[..., Any],
) -> None:
    for name in ("unused", "learnt", "fresh"):
        dataset = Dataset.objects.create(workspace=workspace, name=name)
        file = SourceFile.objects.create(dataset=dataset, name="a.jsonl", size=2, received_at=timezone.now())
        path = storage.source_path(file)
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        version = DatasetVersion.objects.create(dataset=dataset, number=1, recipe={}, parent="0" * 64)
        if name == "learnt":
            Job.objects.create(
                workspace=workspace, name="job", task="chat", version=version, data_label=name, spec={},
                data_hash="", base=model, state="succeeded", sent_at=timezone.now(),
            )  # fmt: skip
    Dataset.objects.exclude(name="fresh").update(updated_at=ago(100))
    keep(DATASETS=90)
    with django_capture_on_commit_callbacks(execute=True):
        text = said()
    assert "1 datasets" in text
    assert set(Dataset.objects.values_list("name", flat=True)) == {"learnt", "fresh"}
    assert len(list(storage.datasets_folder().glob("*/sources/*"))) == 2
    assert AuditEvent.objects.get(action="dataset_deleted").actor is None


@pytest.mark.parametrize("state", ["cancelled", "failed"])
def test_checkpoints_of_fine_tunes_that_did_not_succeed_go_and_the_rest_of_them_stays(
    state: str, keep: Callable[..., None], workspace: Workspace, model: ServedModel
) -> None:
    folders = {}
    other = "failed" if state == "cancelled" else "cancelled"
    for name, state_, days in (
        ("old", state, 8),
        ("fresh", state, 6),
        ("other", other, 8),
        ("on", "paused", 8),
    ):
        job = Job.objects.create(
            workspace=workspace, name=name, task="chat", data_label=name, spec={}, data_hash="", base=model,
            state=state_, sent_at=ago(days), finished_at=ago(days),
        )  # fmt: skip
        job.checkpoints.create(step=4)
        folders[name] = storage.job_folder(job) / "checkpoints" / "step-00000004"
        folders[name].mkdir(parents=True)
        (folders[name].parents[1] / "metrics.jsonl").write_text("")
    keep(**{state.upper(): 7})
    assert f"1 folders of checkpoints of {state} fine-tunes" in said("--dry-run")
    retain_all()
    assert [name for name, folder in folders.items() if folder.exists()] == ["fresh", "other", "on"]
    assert (folders["old"].parents[1] / "metrics.jsonl").exists()
    assert not Job.objects.get(name="old").checkpoints.get().is_kept
    assert Job.objects.get(name="fresh").checkpoints.get().is_kept


def test_deliveries_usage_audit_events_and_invitations_go_in_their_time(
    keep: Callable[..., None], workspace: Workspace, alice: User
) -> None:
    webhook = Webhook.objects.create(workspace=workspace, name="w", url="https://a.example", secret="s")
    for days in (31, 29):
        sent = WebhookDelivery.objects.create(webhook=webhook, type="t", body="{}", state="delivered")
        WebhookDelivery.objects.filter(pk=sent.pk).update(created_at=ago(days))
        event = AuditEvent.objects.create(action="login", actor=alice)
        AuditEvent.objects.filter(pk=event.pk).update(at=ago(days))
        Invitation.objects.create(workspace=workspace, token_hash=str(days), expires_at=ago(days))
    for day in (ago(70).date(), timezone.now().date().replace(day=1)):
        UsageDay.objects.create(workspace=workspace, day=day, model_name="m", source="chat")
    keep(WEBHOOKS=30, USAGE=1, AUDIT=30, INVITATIONS=30)
    retain_all()
    assert WebhookDelivery.objects.count() == 1
    assert AuditEvent.objects.filter(action="login").count() == 1
    assert Invitation.objects.count() == 1
    assert UsageDay.objects.get().day.day == 1, "a month's limit still counts all of it"


def test_log_ins_whose_time_is_over_go(keep: Callable[..., None], alice: User, workspace: Workspace) -> None:
    kept, over = Client(), Client()
    for client in (kept, over):
        client.force_login(alice)
    key = over.session.session_key
    Session.objects.filter(session_key=key).update(expire_date=ago(1))
    retain_all()
    assert list(Session.objects.values_list("session_key", flat=True)) == [kept.session.session_key]


def test_people_are_told_how_long_their_conversations_are_kept(
    keep: Callable[..., None], alice: User, workspace: Workspace, client: Client
) -> None:
    client.force_login(alice)
    assert "nobody goes on with" not in client.get(reverse("profile")).content.decode()
    keep(CONVERSATIONS=90)
    assert "is deleted after 90 days" in client.get(reverse("profile")).content.decode()
