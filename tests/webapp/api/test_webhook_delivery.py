"""Webhooks are told of what becomes of a fine-tune: signed, once an attempt, again until it arrives, not for ever."""

from __future__ import annotations

import json
import re
import threading
import uuid
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest
import standardwebhooks
from celery import current_app
from django.db import transaction
from django.utils import timezone

from inference.models import ServedModel
from tests.services import Valkey
from tests.webapp.api.webhook_cast import MakeWebhook, happens, make_job, make_webhook, receiver, webhook
from tests.webapp.receiver import Receiver
from training import job_life, job_services
from training.models import Job, Search
from webapp.accounts.models import AuditEvent, User, Workspace
from webapp.api import webhook_delivery, webhook_services
from webapp.api.models import Webhook, WebhookDelivery
from webapp.api.webhook_delivery import FAILING_FOR, LEASE, MAX_ATTEMPTS, SWITCHED_OFF, deliver_due, pause

__all__ = ["make_webhook", "receiver", "webhook"]
pytestmark = pytest.mark.django_db


def only_delivery() -> WebhookDelivery:
    return WebhookDelivery.objects.select_related("webhook").get()


def due_now() -> None:
    """Time passes: the next attempt's turn comes."""
    WebhookDelivery.objects.filter(state="pending").update(next_at=timezone.now() - timedelta(seconds=1))


# --- what is told -------------------------------------------------------------------------------------------


def test_a_fine_tune_that_succeeds_is_told_with_the_model_that_came_of_it(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    job = make_job(workspace)
    model = ServedModel.objects.create(
        name="ft:tiny:acme:support:1", path="x", digest="1", architecture="llama", context_length=100, parameters=1,
        size_bytes=1, workspace=workspace, base=job.base,
    )  # fmt: skip
    happens(job, Job.State.SUCCEEDED, model=model)
    deliver_due()
    [received] = receiver.received
    event = json.loads(received.body)
    assert event["id"].startswith("evt_")
    assert abs(event["created_at"] - timezone.now().timestamp()) < 10
    assert {name: event[name] for name in ("object", "type", "data")} == {
        "object": "event",
        "type": "fine_tuning.job.succeeded",
        "data": {
            "id": str(job.pk), "status": "succeeded", "model": "tiny", "fine_tuned_model": "ft:tiny:acme:support:1",
            "error": None,
        },
    }  # fmt: skip
    assert received.method == "POST"
    assert received.path == "/in"
    assert received.headers["content-type"] == "application/json"
    delivery = only_delivery()
    assert (delivery.state, delivery.status, delivery.attempts, delivery.next_at) == (
        "delivered",
        200,
        1,
        None,
    )


def test_each_turn_of_a_jobs_life_is_told_once(webhook: Webhook, workspace: Workspace, alice: User) -> None:
    job = make_job(workspace)
    job_life.add_event(job, "created", "It waits for a worker.")
    Job.objects.update(state=Job.State.RUNNING, heartbeat_at=timezone.now())
    job.refresh_from_db()
    job_life.add_event(job, "started", "It begins.")
    job_life.add_event(job, "checkpoint", "Step 1 is saved.")
    assert job_life.end(job, Job.State.FAILED, error_code="nan", error_message="Numbers ran away.")
    job_services.cancel_job(job=make_job(workspace), user=alice)
    told = [json.loads(body) for body in WebhookDelivery.objects.values_list("body", flat=True)]
    assert sorted(event["type"].rpartition(".")[2] for event in told) == [
        *("cancelled", "created", "failed", "running")
    ]
    [failed] = [event for event in told if event["type"].endswith("failed")]
    assert failed["data"]["error"] == {"code": "nan", "message": "Numbers ran away."}


def test_trials_of_a_search_are_not_told(webhook: Webhook, workspace: Workspace) -> None:
    search = Search.objects.create(workspace=workspace, name="s", kind="search", parameters={})
    happens(make_job(workspace, search=search, number=1), Job.State.CANCELLED)
    assert not WebhookDelivery.objects.exists()


def test_only_those_are_told_who_want_it_are_on_and_are_of_the_workspace(
    make_webhook: MakeWebhook, workspace: Workspace, elsewhere: Workspace, charlie: User
) -> None:
    wanted = make_webhook(events=["fine_tuning.job.failed"])
    make_webhook(events=["fine_tuning.job.succeeded"])
    Webhook.objects.filter(pk=make_webhook().pk).update(is_active=False)
    make_webhook(user=charlie, workspace=elsewhere)
    happens(make_job(workspace), Job.State.FAILED)
    assert only_delivery().webhook == wanted


def test_what_was_taken_back_is_not_told(webhook: Webhook, workspace: Workspace) -> None:
    with transaction.atomic():
        happens(make_job(workspace), Job.State.FAILED)
        assert WebhookDelivery.objects.exists()
        transaction.set_rollback(True)
    assert not WebhookDelivery.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_its_task_is_sent_when_the_change_is_committed(
    webhook: Webhook, workspace: Workspace, broker: Valkey
) -> None:
    queue = f"{current_app.conf.broker_transport_options['global_keyprefix']}default"
    with broker.client() as client:
        with transaction.atomic():
            happens(make_job(workspace), Job.State.FAILED)
            assert client.llen(queue) == 0
        [task] = [json.loads(task) for task in client.lrange(queue, 0, -1)]
    assert task["headers"]["task"] == "api.deliver_webhooks"


# --- signatures ---------------------------------------------------------------------------------------------


def test_the_signature_is_what_standard_webhooks_and_openais_client_accept(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    happens(make_job(workspace), Job.State.SUCCEEDED)
    deliver_due()
    [received] = receiver.received
    assert received.headers["webhook-id"] == str(only_delivery().pk)
    event = standardwebhooks.Webhook(webhook.secret).verify(received.body, received.headers)
    assert event == json.loads(received.body)
    client = openai.OpenAI(api_key="unused")
    unwrapped = client.webhooks.unwrap(received.body, received.headers, secret=webhook.secret)
    assert unwrapped.type == "fine_tuning.job.succeeded"
    with pytest.raises(standardwebhooks.webhooks.WebhookVerificationError):
        standardwebhooks.Webhook(webhook.secret).verify(received.body + b" ", received.headers)


def test_the_docs_way_to_check_a_signature_works(
    webhook: Webhook, receiver: Receiver, workspace: Workspace, alice: User
) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "webhooks.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "def verified" in block]
    given: dict[str, Any] = {}
    exec(code, given)
    old = webhook.secret
    webhook_services.roll_secret(webhook=webhook, by=alice, keep_old=True)
    happens(make_job(workspace), Job.State.SUCCEEDED)
    deliver_due()
    [received] = receiver.received
    for secret in (old, webhook.secret):
        assert given["verified"](received.body, received.headers, secret)
    assert not given["verified"](received.body + b" ", received.headers, old)
    assert not given["verified"](received.body, received.headers | {"webhook-timestamp": "1"}, old)
    assert not given["verified"](received.body, received.headers, "whsec_" + "A" * 44)


def test_a_rolled_secret_signs_beside_the_old_one_for_a_day_where_that_was_asked_for(
    webhook: Webhook, receiver: Receiver, workspace: Workspace, alice: User
) -> None:
    def accepted(*secrets: str) -> list[bool]:
        job = make_job(workspace)
        happens(job, Job.State.CANCELLED)
        deliver_due()
        received = receiver.received[-1]
        answers = []
        for secret in secrets:
            try:
                standardwebhooks.Webhook(secret).verify(received.body, received.headers)
                answers.append(True)
            except standardwebhooks.webhooks.WebhookVerificationError:
                answers.append(False)
        return answers

    old = webhook.secret
    new = webhook_services.roll_secret(webhook=webhook, by=alice, keep_old=True)
    assert accepted(old, new) == [True, True]
    Webhook.objects.update(previous_until=timezone.now())
    assert accepted(old, new) == [False, True]
    webhook_delivery.prune()
    webhook.refresh_from_db()
    assert webhook.previous_secret == ""
    newest = webhook_services.roll_secret(webhook=webhook, by=alice)
    assert accepted(old, new, newest) == [False, False, True]


# --- again and again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (500, "It answered with an error."),
        (404, "It answered with an error."),
        (302, "It answered that it is at"),
    ],
)
def test_what_did_not_arrive_is_tried_again_and_the_log_says_why(
    status: int, sentence: str, webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    receiver.answer = (status, {"Location": "/elsewhere"}, b"")
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    deliver_due()  # it is not due yet
    delivery = only_delivery()
    assert (delivery.state, delivery.status, delivery.attempts) == ("pending", status, 1)
    assert delivery.error.startswith(sentence)
    assert delivery.next_at is not None
    assert timedelta(seconds=2) < delivery.next_at - timezone.now() < timedelta(seconds=7)
    webhook.refresh_from_db()
    assert webhook.failing_since is not None
    receiver.answer = (204, {}, b"")
    due_now()
    deliver_due()
    delivery = only_delivery()
    assert (delivery.state, delivery.status, delivery.attempts, delivery.error) == ("delivered", 204, 2, "")
    webhook.refresh_from_db()
    assert webhook.failing_since is None
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1
    assert len({received.body for received in receiver.received}) == 1


def test_pauses_grow_to_a_day_and_come_to_three_days_in_all() -> None:
    pauses = [[pause(attempt) for _ in range(50)] for attempt in range(1, MAX_ATTEMPTS)]
    assert all(min(later) > max(earlier) for earlier, later in pairwise(pauses[:8]))
    assert max(max(some) for some in pauses) < timedelta(hours=29)
    assert all(len(set(some)) > 10 for some in pauses)
    whole = sum((some[0] for some in pauses), timedelta())
    assert timedelta(days=2, hours=12) < whole < timedelta(days=4)
    assert pause(1, asked=90) == timedelta(seconds=90)
    assert pause(1, asked=10**9) == timedelta(days=1)


def test_a_receiver_that_asks_for_time_is_given_it(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    receiver.answer = (429, {"Retry-After": "600"}, b"")
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    next_at = only_delivery().next_at
    assert next_at is not None
    assert next_at > timezone.now() + timedelta(seconds=590)


def test_after_the_last_attempt_it_is_given_up(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    receiver.answer = (500, {}, b"")
    happens(make_job(workspace), Job.State.FAILED)
    WebhookDelivery.objects.update(attempts=MAX_ATTEMPTS - 1)
    deliver_due()
    assert (only_delivery().state, only_delivery().next_at) == ("failed", None)


def test_410_switches_it_off_and_what_is_on_its_way_is_given_up(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    receiver.answer = (500, {}, b"")
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    receiver.answer = (410, {}, b"")
    happens(make_job(workspace), Job.State.CANCELLED)
    deliver_due()
    webhook.refresh_from_db()
    assert (webhook.is_active, webhook.off_because) == (False, "gone")
    assert sorted(WebhookDelivery.objects.values_list("state", "error")) == [
        ("failed", "It answered that it is gone for good (410)."),
        ("failed", SWITCHED_OFF),
    ]
    happens(make_job(workspace), Job.State.FAILED)
    assert WebhookDelivery.objects.count() == 2
    assert AuditEvent.objects.get(action="webhook_given_up").detail["because"] == "gone"


def test_days_without_success_switch_it_off_with_an_entry_in_the_audit_log(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    receiver.answer = (503, {}, b"")
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    Webhook.objects.update(failing_since=timezone.now() - FAILING_FOR + timedelta(minutes=1))
    due_now()
    deliver_due()
    webhook.refresh_from_db()
    assert webhook.is_active
    Webhook.objects.update(failing_since=timezone.now() - FAILING_FOR - timedelta(seconds=1))
    due_now()
    deliver_due()
    webhook.refresh_from_db()
    assert (webhook.is_active, webhook.off_because) == (False, "failing")
    assert only_delivery().state == "failed"
    event = AuditEvent.objects.get(action="webhook_given_up")
    assert (event.workspace, event.actor) == (workspace, None)


def test_switched_on_again_it_is_trusted_anew(
    webhook: Webhook, receiver: Receiver, workspace: Workspace, alice: User
) -> None:
    Webhook.objects.update(
        is_active=False, off_because="failing", failing_since=timezone.now() - timedelta(days=9)
    )
    webhook.refresh_from_db()
    webhook_services.update_webhook(webhook=webhook, by=alice, is_active=True)
    receiver.answer = (500, {}, b"")
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    webhook.refresh_from_db()
    assert (webhook.is_active, webhook.off_because, only_delivery().state) == (True, "", "pending")


def test_a_redirect_is_followed_as_the_address_itself_was_vetted(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    receiver.answers["/in"] = (308, {"Location": "/moved"}, b"")
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    assert [received.path for received in receiver.received] == ["/in", "/moved"]
    assert only_delivery().state == "delivered"
    receiver.answers["/in"] = (308, {"Location": "http://169.254.169.254/latest/meta-data"}, b"")
    happens(make_job(workspace), Job.State.CANCELLED)
    deliver_due()
    assert "not on the public internet" in WebhookDelivery.objects.get(state="pending").error


# --- several workers, and dead ones -------------------------------------------------------------------------


def test_of_two_workers_only_one_sends_an_attempt(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    happens(make_job(workspace), Job.State.FAILED)
    mine, theirs = only_delivery(), only_delivery()
    assert webhook_delivery.claim(mine)
    assert not webhook_delivery.claim(theirs)
    deliver_due()
    assert receiver.received == []
    webhook_delivery.record(mine, webhook_delivery.post(mine))
    assert only_delivery().state == "delivered"


def test_what_a_dead_worker_had_in_hand_is_sent_by_another_and_its_late_word_counts_for_nothing(
    webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    happens(make_job(workspace), Job.State.FAILED)
    lost = only_delivery()
    assert webhook_delivery.claim(lost)
    assert only_delivery().next_at == lost.next_at
    assert lost.next_at is not None
    assert lost.next_at - timezone.now() > LEASE - timedelta(seconds=5)
    due_now()
    deliver_due()
    assert (only_delivery().state, only_delivery().attempts) == ("delivered", 2)
    webhook_delivery.record(lost, webhook_delivery.Outcome(500, "late"))
    assert (only_delivery().state, only_delivery().status) == ("delivered", 200)


def test_a_receiver_that_hangs_holds_up_no_other(
    make_webhook: MakeWebhook, receiver: Receiver, workspace: Workspace
) -> None:
    slow, quick = make_webhook(url=receiver.url("/slow")), make_webhook(url=receiver.url("/quick"))
    told = threading.Event()

    def answer_slowly(handler: Any) -> None:
        if handler.path == "/slow":
            told.wait(5)
        elif sum(received.path == "/quick" for received in receiver.received) == 6:
            told.set()

    receiver.before_answer = answer_slowly
    for _ in range(6):
        happens(make_job(workspace), Job.State.FAILED)
    # The slow one's are all due first.
    WebhookDelivery.objects.filter(webhook=slow).update(next_at=timezone.now() - timedelta(hours=1))
    deliver_due()
    assert told.is_set()
    assert WebhookDelivery.objects.filter(webhook=quick, state="delivered").count() == 6


def test_each_of_several_webhooks_is_sent_the_same_event_under_an_id_of_its_own(
    make_webhook: MakeWebhook, receiver: Receiver, workspace: Workspace
) -> None:
    make_webhook()
    make_webhook()
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    first, second = receiver.received
    assert first.body == second.body
    assert uuid.UUID(first.headers["webhook-id"]) != uuid.UUID(second.headers["webhook-id"])
