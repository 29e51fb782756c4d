"""The pages of webhooks: made, tried, changed, switched off, followed, deleted; and nobody else's business."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.webapp.api.webhook_cast import happens, make_job, make_webhook, receiver, webhook
from tests.webapp.receiver import Receiver
from training.models import Job
from webapp.accounts.models import AuditEvent, User, Workspace
from webapp.api import urls
from webapp.api.models import Webhook, WebhookDelivery
from webapp.api.webhook_delivery import deliver_due

__all__ = ["make_webhook", "receiver", "webhook"]
pytestmark = pytest.mark.django_db
SECRET = re.compile(r"whsec_[A-Za-z0-9+/]{43}=")
FORM: dict[str, Any] = {
    "name": "deploy",
    "url": "https://hooks.example.org/in",
    "events": ["fine_tuning.job.succeeded", "fine_tuning.job.failed"],
}
# All but the page that lists them; with whether a GET opens it.
OF_ONE = {"webhook": True, **dict.fromkeys(("webhook_switch", "webhook_test", "webhook_secret"), False)}
OF_ONE |= dict.fromkeys(("webhook_delete", "webhook_delivery_again"), False)


@pytest.fixture
def page(alice: User) -> Client:
    """Alice's browser."""
    return _browser(alice)


def _browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def text(answer: Any, status: int = 200) -> str:
    assert answer.status_code == status, answer.content.decode()[:2000]
    return str(answer.content.decode())


def address(name: str, webhook: Webhook) -> str:
    parts = [webhook.workspace_id, webhook.pk]
    if name == "webhook_delivery_again":
        delivery = WebhookDelivery.objects.filter(webhook=webhook).first()
        parts.append(delivery.pk if delivery else webhook.pk)
    return reverse(name, args=parts)


def act(page: Client, route: str, webhook: Webhook, **form: Any) -> str:
    return text(page.post(address(route, webhook), form, follow=True))


def test_a_new_one_shows_its_secret_once(page: Client, workspace: Workspace) -> None:
    assert "A new webhook" in text(page.get("/settings/workspace/webhooks/"))
    answer = page.post(f"/workspaces/{workspace.pk}/webhooks/", FORM)
    [secret] = set(SECRET.findall(text(answer)))
    assert "no-store" in answer.headers["Cache-Control"]
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.url, webhook.events) == (FORM["name"], FORM["url"], FORM["events"])
    assert webhook.secret == secret
    for shown in (page.get("/settings/workspace/webhooks/"), page.get(address("webhook", webhook))):
        assert not SECRET.search(text(shown))
        assert FORM["url"] in text(shown)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"name": ""}, {"name": "x" * 81}, {"events": []}, {"events": ["batch.completed"]}),
        *(
            {"url": "http://localhost/"},
            {"url": "javascript:alert(1)"},
            {"url": f"https://e.org/{'a' * 600}"},
        ),
    ],
)
def test_a_form_with_something_wrong_makes_none_and_says_what(
    wrong: dict[str, Any], page: Client, workspace: Workspace
) -> None:
    answer = text(page.post(f"/workspaces/{workspace.pk}/webhooks/", FORM | wrong), 400)
    assert "field-error" in answer
    assert not Webhook.objects.exists()


def test_it_is_changed_and_a_mistake_changes_nothing(
    page: Client, webhook: Webhook, receiver: Receiver
) -> None:
    assert "Saved." in act(page, "webhook", webhook, **FORM | {"url": receiver.url("/other")})
    webhook.refresh_from_db()
    assert (webhook.url, webhook.events) == (receiver.url("/other"), FORM["events"])
    answer = text(page.post(address("webhook", webhook), FORM | {"url": "http://10.0.0.1/"}), 400)
    assert "public internet" in answer
    webhook.refresh_from_db()
    assert webhook.url == receiver.url("/other")


def test_a_test_says_at_once_whether_it_arrived(page: Client, webhook: Webhook, receiver: Receiver) -> None:
    assert "It arrived: your server answered 200." in act(page, "webhook_test", webhook)
    receiver.answer = (500, {}, b"")
    assert "It answered with an error. (500)" in act(page, "webhook_test", webhook)
    assert len(receiver.received) == 2


def test_the_log_shows_what_became_of_each_and_sends_one_again(
    page: Client, webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    assert "Nothing yet." in text(page.get(address("webhook", webhook)))
    receiver.answer = (500, {}, b"")
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    shown = text(page.get(address("webhook", webhook)))
    for words in (
        "A fine-tune failed",
        "on its way",
        "<code>500</code>",
        "It answered with an error.",
        "1 attempt",
    ):
        assert words in shown
    assert "Nothing has arrived for" in shown
    receiver.answer = (200, {}, b"")
    shown = act(page, "webhook_delivery_again", webhook)
    assert "It arrived" in shown
    assert "2 attempts" in shown


def test_switched_off_it_is_sent_nothing_until_it_is_switched_on(
    page: Client, webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    assert "Switched off." in act(page, "webhook_switch", webhook, on="0")
    assert page.post(address("webhook_test", webhook)).status_code == 409
    happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    assert receiver.received == []
    assert "Switched on." in act(page, "webhook_switch", webhook, on="1")
    happens(make_job(workspace), Job.State.CANCELLED)
    deliver_due()
    assert len(receiver.received) == 1


@pytest.mark.parametrize(("why", "words"), [("gone", "gone for good"), ("failing", "for three days")])
def test_why_it_was_switched_off_stands_on_its_page(
    why: str, words: str, page: Client, webhook: Webhook
) -> None:
    Webhook.objects.update(is_active=False, off_because=why, failing_since=timezone.now())
    assert words in text(page.get(address("webhook", webhook)))


def test_a_new_secret_is_shown_once_and_the_old_one_may_live_on(page: Client, webhook: Webhook) -> None:
    old = webhook.secret
    answer = page.post(address("webhook_secret", webhook), {"keep_old": "on"})
    [new] = set(SECRET.findall(text(answer)))
    assert "no-store" in answer.headers["Cache-Control"]
    webhook.refresh_from_db()
    assert (webhook.secret, webhook.previous_secret) == (new, old)
    assert not SECRET.search(text(page.get(address("webhook", webhook))))
    page.post(address("webhook_secret", webhook))
    webhook.refresh_from_db()
    assert webhook.previous_secret == ""
    assert AuditEvent.objects.filter(action="webhook_secret_rolled").count() == 2


def test_deleted_it_is_gone(page: Client, webhook: Webhook) -> None:
    assert "is told nothing any more" in act(page, "webhook_delete", webhook)
    assert not Webhook.objects.exists()
    assert page.get(address("webhook", webhook)).status_code == 404


def test_what_was_typed_is_text(page: Client, webhook: Webhook) -> None:
    evil = "<img src=x onerror=alert(1)>"
    Webhook.objects.update(name=evil, url=f"https://e.org/{evil}")
    WebhookDelivery.objects.create(webhook=webhook, type=evil, body="{}", error=evil, state="failed")
    for path in ("/settings/workspace/webhooks/", address("webhook", webhook)):
        assert "<img" not in text(page.get(path))


# --- who may -------------------------------------------------------------------------------------------------


def test_no_page_is_missing_from_these_tests() -> None:
    pages = {
        pattern.name
        for pattern in urls.urlpatterns
        if str(getattr(pattern, "name", "")).startswith("webhook")
    }
    assert pages == {"webhooks", "webhook_create", *OF_ONE}


@pytest.fixture
def sent(webhook: Webhook, workspace: Workspace) -> Webhook:
    """One to which something was sent."""
    happens(make_job(workspace), Job.State.FAILED)
    return webhook


@pytest.mark.parametrize("name", OF_ONE)
def test_outsiders_and_members_see_none_and_change_none(
    name: str, sent: Webhook, receiver: Receiver, bob: User, charlie: User, elsewhere: Workspace
) -> None:
    path = address(name, sent)
    before = _snapshot()
    own = path.replace(str(sent.workspace_id), str(elsewhere.pk))
    for client, asked, status in (
        (_browser(charlie), path, 404),
        (_browser(charlie), own, 404),
        (_browser(bob), path, 403),
        (Client(), path, 302),
    ):
        for answer in (client.get(asked), client.post(asked, FORM | {"on": "0"})):
            assert answer.status_code in ((status,) if OF_ONE[name] else (status, 405))
            assert sent.url not in answer.content.decode()
    assert _snapshot() == before
    assert receiver.received == []


@pytest.mark.parametrize("name", [name for name, opens in OF_ONE.items() if not opens])
def test_a_link_cannot_act(name: str, sent: Webhook, page: Client) -> None:
    before = _snapshot()
    assert page.get(address(name, sent)).status_code == 405
    assert _snapshot() == before


def test_who_is_not_an_admin_gets_no_list_and_makes_none(
    workspace: Workspace, elsewhere: Workspace, webhook: Webhook, bob: User, charlie: User
) -> None:
    tests: list[tuple[Callable[[], Any], int]] = [
        (lambda: _browser(bob).get("/settings/workspace/webhooks/"), 403),
        (lambda: _browser(bob).post(f"/workspaces/{workspace.pk}/webhooks/", FORM), 403),
        (lambda: _browser(charlie).post(f"/workspaces/{workspace.pk}/webhooks/", FORM), 404),
        (lambda: Client().get("/settings/workspace/webhooks/"), 302),
    ]
    for ask, status in tests:
        assert ask().status_code == status
    assert webhook.url not in text(_browser(charlie).get("/settings/workspace/webhooks/"))
    assert "webhooks/" not in text(_browser(bob).get("/settings/workspace/"))
    assert Webhook.objects.count() == 1


def _snapshot() -> list[Any]:
    return [sorted(Webhook.objects.values_list()), sorted(WebhookDelivery.objects.values_list())]
