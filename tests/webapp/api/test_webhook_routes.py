"""/v1/webhook_endpoints: OpenAI's client makes and changes them, the log is read, and who may not, may not."""

from __future__ import annotations

import json
import uuid
from typing import Any

import openai
import pytest
from django.test import Client
from django.utils import timezone

from tests.services import Site
from tests.webapp.api.conftest import key_client
from tests.webapp.api.live_clients import workspace_of
from tests.webapp.api.webhook_cast import happens, make_job, make_webhook, receiver, webhook
from tests.webapp.receiver import Receiver, receiving
from training.models import Job
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import AuditEvent, Scope, User, Workspace
from webapp.api import webhook_services
from webapp.api.models import Webhook, WebhookDelivery
from webapp.api.webhook_delivery import deliver_due
from webapp.api.webhook_events import TYPES

__all__ = ["make_webhook", "receiver", "webhook"]
BASE = "/v1/webhook_endpoints"


def post(client: Client, path: str, **body: Any) -> Any:
    return client.post(path, body, content_type="application/json")


def made(client: Client, **changes: Any) -> Any:
    body = {
        "name": "deploy",
        "url": "https://hooks.example.org/in",
        "event_types": ["fine_tuning.job.failed"],
    }
    return post(client, BASE, **body | changes)


@pytest.mark.django_db
def test_the_secret_is_in_the_answer_to_its_making_and_in_no_other(alices: Client) -> None:
    answer = made(alices)
    assert answer.status_code == 200, answer.content
    body = answer.json()
    secret = body.pop("signing_secret")
    assert secret.startswith("whsec_")
    assert body["object"] == "webhook_endpoint"
    assert (body["is_active"], body["off_because"]) == (True, None)
    for shown in (
        alices.get(f"{BASE}/{body['id']}"),
        alices.get(BASE),
        post(alices, f"{BASE}/{body['id']}", name="x"),
    ):
        assert shown.status_code == 200
        assert secret not in shown.content.decode()
    assert alices.get(BASE).json()["data"][0]["id"] == body["id"]
    assert body["signing_secret_hint"].endswith(secret.rstrip("=")[-4:])
    assert AuditEvent.objects.filter(action="webhook_created").count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        ({"url": "http://localhost/"}, "address_refused", "url"),
        ({"url": "http://10.0.0.1/"}, "address_refused", "url"),
        ({"url": "ftp://example.org/"}, "bad_url", "url"),
        ({"url": "https://a:b@example.org/"}, "credentials_in_url", "url"),
        ({"name": " "}, "bad_name", "name"),
        ({"name": "a\x1bb"}, "bad_name", "name"),
        ({"event_types": []}, "invalid_value", "event_types"),
        ({"event_types": ["batch.completed"]}, "invalid_value", "event_types.0"),
        ({"secret": "mine"}, "unsupported_parameter", "secret"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_made(
    wrong: dict[str, Any], code: str, param: str, alices: Client
) -> None:
    answer = made(alices, **wrong)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert not Webhook.objects.exists()


@pytest.mark.django_db
def test_a_workspace_has_only_so_many(alices: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_services, "MAX_WEBHOOKS", 2)
    assert [made(alices).status_code for _ in range(3)] == [200, 200, 409]


@pytest.mark.django_db
def test_a_change_leaves_alone_what_it_does_not_name(alices: Client, webhook: Webhook) -> None:
    path = f"{BASE}/{webhook.pk}"
    changed = post(alices, path, event_types=["fine_tuning.job.failed"]).json()
    assert changed["event_types"] == ["fine_tuning.job.failed"]
    assert (changed["name"], changed["url"]) == (webhook.name, webhook.url)
    off = post(alices, path, is_active=False).json()
    assert (off["is_active"], off["off_because"]) == (False, "person")
    assert post(alices, f"{path}/test").json()["error"]["code"] == "webhook_off"
    assert post(alices, path, is_active=True).json()["off_because"] is None
    assert post(alices, path, url="http://192.168.0.1/").status_code == 400
    assert Webhook.objects.get().url == webhook.url


@pytest.mark.django_db
def test_a_test_event_is_answered_with_what_the_server_answered(
    alices: Client, webhook: Webhook, receiver: Receiver
) -> None:
    path = f"{BASE}/{webhook.pk}/test"
    answer = post(alices, path, event_type="fine_tuning.job.succeeded").json()
    assert (answer["success"], answer["status_code"], answer["error"]) == (True, 200, None)
    assert b'"test":true' in receiver.received[0].body
    receiver.answer = (500, {}, b"")
    answer = post(alices, path).json()
    assert (answer["success"], answer["status_code"]) == (True, 500)
    Webhook.objects.update(url="http://127.0.0.1:1/")
    answer = post(alices, path).json()
    assert (answer["success"], answer["status_code"]) == (False, 0)
    assert "No connection" in answer["error"]
    webhook.refresh_from_db()
    assert webhook.failing_since is None
    assert set(WebhookDelivery.objects.values_list("state", "next_at")) == {
        ("delivered", None),
        ("failed", None),
    }
    assert post(alices, path, event_type="batch.completed").status_code == 400


@pytest.mark.django_db
def test_nobody_knocks_at_other_peoples_doors_without_end(alices: Client, webhook: Webhook) -> None:
    statuses = [post(alices, f"{BASE}/{webhook.pk}/test").status_code for _ in range(21)]
    assert statuses == [200] * 20 + [429]
    answer = post(alices, f"{BASE}/{webhook.pk}/test")
    assert answer.headers["Retry-After"] == "60"


@pytest.mark.django_db
def test_the_log_of_deliveries_is_turned_page_by_page_and_one_is_sent_again(
    alices: Client, webhook: Webhook, receiver: Receiver, workspace: Workspace
) -> None:
    receiver.answer = (500, {}, b"")
    for _ in range(3):
        happens(make_job(workspace), Job.State.FAILED)
    deliver_due()
    path = f"{BASE}/{webhook.pk}/deliveries"
    first = alices.get(f"{path}?limit=2").json()
    assert (len(first["data"]), first["has_more"]) == (2, True)
    second = alices.get(f"{path}?limit=2&after={first['last_id']}").json()
    assert (len(second["data"]), second["has_more"]) == (1, False)
    entry = second["data"][0]
    assert (entry["state"], entry["status_code"], entry["attempts"]) == ("pending", 500, 1)
    assert entry["next_attempt_at"] > entry["last_attempt_at"] >= entry["created_at"]
    receiver.answer = (200, {}, b"")
    again = post(alices, f"{path}/{entry['id']}/redeliver").json()
    assert (again["state"], again["status_code"], again["attempts"], again["id"]) == (
        *("delivered", 200, 2),
        entry["id"],
    )
    assert receiver.received[-1].headers["webhook-id"] == entry["id"]
    # What has arrived may be wanted once more.
    assert post(alices, f"{path}/{entry['id']}/redeliver").json()["attempts"] == 3
    WebhookDelivery.objects.filter(pk=entry["id"]).update(state="pending", status=None, error="")
    assert post(alices, f"{path}/{entry['id']}/redeliver").json()["error"]["code"] == "under_way"
    for wrong in ("nonsense", str(uuid.uuid4())):
        assert alices.get(f"{path}?after={wrong}").json()["error"]["param"] == "after"


ROUTES = [
    ("get", BASE),
    ("post", BASE),
    ("get", f"{BASE}/ID"),
    ("post", f"{BASE}/ID"),
    ("delete", f"{BASE}/ID"),
    ("post", f"{BASE}/ID/rotate_secret"),
    ("post", f"{BASE}/ID/test"),
    ("get", f"{BASE}/ID/deliveries"),
    ("post", f"{BASE}/ID/deliveries/DELIVERY/redeliver"),
    ("get", "/v1/webhook_event_types"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_who_may_not_learns_nothing_and_changes_nothing(
    method: str, path: str, webhook: Webhook, receiver: Receiver, workspace: Workspace, alice: User, bob: User,
    alices: Client, charlies: Client, client: Client,
) -> None:  # fmt: skip
    happens(make_job(workspace), Job.State.FAILED)
    delivery = WebhookDelivery.objects.get()
    is_of_one = "ID" in path
    path = path.replace("ID", str(webhook.pk)).replace("DELIVERY", str(delivery.pk))
    before = sorted(Webhook.objects.values_list()), sorted(WebhookDelivery.objects.values_list())

    def ask(who: Client) -> tuple[int, str]:
        body = (
            {"name": "n", "url": "https://example.org/", "event_types": list(TYPES)} if path == BASE else {}
        )
        answer = who.generic(method.upper(), path, json.dumps(body), "application/json")
        assert str(webhook.url) not in answer.content.decode()
        return answer.status_code, str(answer.json().get("error", {}).get("code"))

    member = key_client(bob, workspace, Scope.CHAT)
    assert ask(client) == (401, "missing_api_key")
    assert ask(member) == (403, "missing_scope")
    assert ask(key_client(alice, workspace, "chat", "files", "training")) == (403, "missing_scope")
    page = Client()
    page.force_login(bob)
    assert ask(page)[0] == 403
    if is_of_one:
        assert ask(charlies) == (404, "not_found")
        assert alices.generic(method.upper(), path.replace(str(webhook.pk), "nonsense")).status_code in (
            400,
            404,
        )
    assert before == (
        sorted(Webhook.objects.filter(workspace=workspace).values_list()),
        sorted(WebhookDelivery.objects.values_list()),
    )
    assert receiver.received == []


def test_openais_client_makes_one_and_a_fine_tunes_end_arrives_there(live_site: Site) -> None:
    with live_site.rows():
        alice, acme = User.objects.get(email="alice@example.org"), workspace_of(live_site)
        _key, token = create_key(user=alice, workspace=acme, name="hooks", scopes=["admin"])
    client = openai.OpenAI(base_url=f"{live_site.base_url}/v1", api_key=token, max_retries=0)
    assert "fine_tuning.job.succeeded" in client.webhooks.event_types.list().data
    with receiving() as receiver:
        endpoint = client.webhooks.create(
            name="deploy", url=receiver.url("/in"), event_types=["fine_tuning.job.succeeded"]
        )
        assert client.webhooks.retrieve(endpoint.id).name == "deploy"
        assert [each.id for each in client.webhooks.list()] == [endpoint.id]
        result = client.webhooks.test(endpoint.id, event_type="fine_tuning.job.succeeded")
        assert (result.status_code, result.webhook_endpoint_id) == (200, endpoint.id)
        receiver.wait()
        with live_site.rows():
            job = make_job(acme)
            happens(job, Job.State.SUCCEEDED)
        received = receiver.wait()  # the site's own worker has sent it
        event = client.webhooks.unwrap(received.body, received.headers, secret=endpoint.signing_secret)
        assert event.type == "fine_tuning.job.succeeded"
        assert event.data.id == str(job.pk)
        rolled = client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
        assert rolled.signing_secret != endpoint.signing_secret
        assert client.webhooks.rotate_secret(endpoint.id).signing_secret_hint
        assert client.webhooks.update(endpoint.id, name="other").name == "other"
        assert client.webhooks.delete(endpoint.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.webhooks.retrieve(endpoint.id)
        with pytest.raises(openai.BadRequestError, match="public internet"):
            client.webhooks.create(name="x", url="http://10.0.0.1/", event_types=["fine_tuning.job.failed"])
    with live_site.rows():
        Job.objects.filter(pk=job.pk).delete()


@pytest.mark.django_db
def test_deleting_takes_the_log_along(alices: Client, webhook: Webhook, workspace: Workspace) -> None:
    happens(make_job(workspace), Job.State.FAILED)
    answer = alices.delete(f"{BASE}/{webhook.pk}").json()
    assert answer == {"id": str(webhook.pk), "object": "webhook_endpoint.deleted", "deleted": True}
    assert not WebhookDelivery.objects.exists()
    assert AuditEvent.objects.get(action="webhook_deleted").at <= timezone.now()
