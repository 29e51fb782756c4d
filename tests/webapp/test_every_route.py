"""Every address, asked by everybody who may not have what is behind it; and what every answer carries.

The addresses come from the resolver: a new one that nobody has thought about fails here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.template.backends.django import Template
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from inference.models import Generation, ServedModel
from tests.webapp.site_routes import routes
from training import urls as training_urls
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.api import urls as api_urls
from webapp.chat.models import Conversation, Message

pytestmark = pytest.mark.django_db
SECRET = "the secret of the matter"

# Pages whose content is the conversation's person's alone: each is asked by everybody else below.
OF_A_CONVERSATION = {"conversation", "messages", "message_source"}
# Pages about whoever asks: a stranger is led to the log-in. (Of workspaces, accounts/test_access_matrix.py says more.)
OF_THE_PERSON = {
    *("home", "conversations", "profile", "account_delete", "workspace_settings", "workspace_audit"),
    *(
        "workspace_new",
        "workspace_switch",
        "workspace_rename",
        "workspace_leave",
        "member_role",
        "member_remove",
    ),
    *("invite", "invitation_revoke", "keys", "key_create", "key_revoke"),
    *("account_change_password", "account_set_password", "account_email", "account_reauthenticate"),
    *(
        "usersessions_list",
        "socialaccount_connections",
        "mfa_index",
        "mfa_activate_totp",
        "mfa_deactivate_totp",
    ),
    *(
        "mfa_generate_recovery_codes",
        "mfa_view_recovery_codes",
        "mfa_download_recovery_codes",
        "mfa_add_webauthn",
    ),
    *("mfa_list_webauthn", "mfa_edit_webauthn", "mfa_remove_webauthn", "mfa_reauthenticate"),
    "mfa_reauthenticate_webauthn",
}
# Of a workspace's data and fine-tunes, which test_data_access.py and test_job_access.py ask as everybody.
OF_DATA = {pattern.name for pattern in training_urls.urlpatterns}
OF_THE_PERSON |= OF_DATA
# Of the API's admins, whom tests/webapp/api asks as everybody.
OF_THE_PERSON |= {"widgets", "widget_settings", "widget_delete"}
# Of what a workspace uses and may use, which limits/test_usage_pages.py and test_limit_pages.py ask as everybody.
OF_THE_PERSON |= {"usage", "usage_csv", "limits", "limits_all", "limits_member", "limits_key"}
# Of the site's operators: ops/test_status_page.py asks as everybody.
OF_THE_PERSON |= {"status", "status_now"}
# Of a workspace's webhooks: api/test_webhook_pages.py asks these as everybody.
OF_WEBHOOKS = {
    pattern.name
    for pattern in api_urls.urlpatterns
    if (getattr(pattern, "name", None) or "").startswith("webhook")
}
OF_THE_PERSON |= OF_WEBHOOKS
# For anybody: they show nothing of anybody.
OPEN = {
    *("setup", "set_language", "invitation", "/healthz", "/readyz", "/metrics"),
    *("account_login", "account_logout", "account_signup", "account_inactive", "account_reset_password"),
    *(
        "account_reset_password_done",
        "account_reset_password_from_key",
        "account_reset_password_from_key_done",
    ),
    *("account_confirm_email", "account_email_verification_sent"),
    *("mfa_authenticate", "mfa_login_webauthn", "account_confirm_login_code"),
    *("/accounts/social/connections/", "/accounts/social/login/cancelled/"),
    *("/accounts/social/login/error/", "/accounts/social/signup/"),
    *("socialaccount_login_cancelled", "socialaccount_login_error", "socialaccount_signup"),
    *("openid_connect_login", "openid_connect_callback"),
    *("guides", "guide", "api:openapi-view", "api:openapi-json", "api:api-root", "api_unknown"),
    # A visitor's token opens these, and no login: tests/webapp/api/test_widgets.py.
    *("widget_script", "widget_frame", "widget_sessions", "widget_messages", "widget_reply", "widget_stop"),
}
# Of programs: tests/webapp/api/test_matrix.py asks each as everybody.
OF_PROGRAMS = {route.name for route in routes() if route.path.startswith("/v1/")} - OPEN


@pytest.fixture
def secret(alice: User, workspace: Workspace) -> Conversation:
    """Alice's conversation in the workspace that Bob is in too."""
    model = ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=100, parameters=1, size_bytes=1,
    )  # fmt: skip
    now = timezone.now()
    generation = Generation.objects.create(
        workspace=workspace, model=model, messages=[], seed=1, deadline=now, sent_at=now, text=SECRET, state="complete"
    )  # fmt: skip
    conversation = Conversation.objects.create(workspace=workspace, user=alice, title=SECRET, updated_at=now)
    Message.objects.create(conversation=conversation, position=0, role="user", text=SECRET)
    Message.objects.create(conversation=conversation, position=1, role="assistant", generation=generation)
    return conversation


def addresses(conversation: Conversation) -> dict[str, str]:
    reply = conversation.messages.get(position=1)
    return {
        "conversation": reverse("conversation", args=[conversation.id]),
        "messages": reverse("messages", args=[conversation.id]) + "?before=9",
        "message_source": reverse("message_source", args=[reply.id]),
    }


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def removed(client: Client, user: User) -> None:
    other = Workspace.objects.create(name="Other")
    Membership.objects.filter(user=user).delete()
    Membership.objects.create(workspace=other, user=user, role=Role.OWNER)


def logged_out(client: Client, user: User) -> None:
    client.logout()


def inactive(client: Client, user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def with_another_password(client: Client, user: User) -> None:
    user.set_password("another password 1")
    user.save()


NO_LONGER: dict[str, Callable[[Client, User], None]] = {
    "removed": removed,
    "logged out": logged_out,
    "inactive": inactive,
    "stale session": with_another_password,
}


def test_every_address_has_its_place_here() -> None:
    known = OF_A_CONVERSATION | OF_THE_PERSON | OF_PROGRAMS | OPEN
    assert {route.name for route in routes()} == known


@pytest.mark.parametrize("name", sorted(OF_A_CONVERSATION))
def test_nobody_but_its_person_sees_a_conversation(
    name: str, secret: Conversation, alice: User, bob: User, charlie: User, elsewhere: Workspace
) -> None:
    path = addresses(secret)[name]
    assert SECRET in logged_in(alice).get(path).content.decode()
    for client, status in ((logged_in(bob), 404), (logged_in(charlie), 404), (Client(), 302)):
        answer = client.get(path)
        assert answer.status_code == status
        assert SECRET not in answer.content.decode()


@pytest.mark.parametrize("why", NO_LONGER)
@pytest.mark.parametrize("name", sorted(OF_A_CONVERSATION))
def test_who_may_no_longer_see_a_conversation_does_not(
    name: str, why: str, secret: Conversation, alice: User
) -> None:
    client, path = logged_in(alice), addresses(secret)[name]
    NO_LONGER[why](client, alice)
    answer = client.get(path)
    assert answer.status_code == (404 if why == "removed" else 302)
    assert SECRET not in answer.content.decode()
    found = client.get("/c/list?q=secret")
    assert SECRET not in found.content.decode()


@pytest.mark.parametrize("why", [None, "logged out", "inactive", "stale session"])
def test_pages_about_oneself_lead_who_is_not_logged_in_to_the_log_in(
    why: str | None, workspace: Workspace, alice: User
) -> None:
    client = Client() if why is None else logged_in(alice)
    if why:
        NO_LONGER[why](client, alice)
    shown = []
    for route in routes():
        if route.name in OF_THE_PERSON | OF_A_CONVERSATION:
            for answer in (client.get(route.path), client.post(route.path)):
                if not (
                    answer.status_code == 405
                    or (answer.status_code == 302 and answer["Location"].startswith("/accounts/login/"))
                ):
                    shown.append((route, answer.status_code, answer.headers.get("Location")))
    assert shown == []


EVIL = "<img src=x onerror=alert(1)>\"'</script>"


@pytest.mark.one_database
def test_whatever_people_and_models_wrote_is_text_on_every_page(secret: Conversation, alice: User) -> None:
    User.objects.update(name=EVIL)
    Workspace.objects.update(name=EVIL)
    ServedModel.objects.update(name=EVIL)
    Conversation.objects.update(title=EVIL)
    Message.objects.filter(role="user").update(text=EVIL)
    Generation.objects.update(text=EVIL, state="failed", error_message=EVIL, error_code=EVIL)
    client = logged_in(alice)
    seen = 0
    paths = [route.path for route in routes() if route.name not in ("account_logout", "message_source")]
    paths += [
        addresses(secret)["conversation"],
        addresses(secret)["messages"],
        f"/c/list?q={EVIL}",
        f"/{EVIL}",
    ]
    for path in paths:
        answer = client.get(path)
        if "html" in answer.headers.get("Content-Type", ""):
            page = answer.content.decode()
            assert "<img src=x" not in page, path
            assert "\"'</script>" not in page, path
            seen += "onerror" in page
    assert seen > 10
    source = client.get(addresses(secret)["message_source"])
    assert source.headers["Content-Type"].startswith("text/plain")


@pytest.mark.one_database
@pytest.mark.parametrize("person", ["alice", None])
def test_no_answer_may_be_kept_framed_or_run_what_it_was_given(
    person: str | None, workspace: Workspace, alice: User
) -> None:
    client = logged_in(alice) if person else Client()
    for route in routes():
        if route.name in ("/healthz", "/readyz", "/metrics", "widget_script"):
            continue
        answer = client.get(route.path)
        assert "no-store" in answer.headers["Cache-Control"], route
        assert "'none'" in answer.headers["Content-Security-Policy"], route
        assert "unsafe" not in answer.headers["Content-Security-Policy"], route
        assert answer.headers["X-Content-Type-Options"] == "nosniff", route
        assert answer.headers["Referrer-Policy"] == "same-origin", route
        if answer.status_code == 200:
            assert answer.headers["X-Frame-Options"] == "DENY", route
        if person:
            client = logged_in(alice)


def test_what_changes_something_needs_the_token_of_our_own_pages(workspace: Workspace, alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    for route in routes():
        if route.name.startswith("/") or route.name in ("openid_connect_callback", "api_unknown"):
            continue
        if route.name.startswith("widget_") and route.name in OPEN:
            continue  # cookies mean nothing there
        assert client.post(route.path, {"next": "/"}).status_code in (403, 405), route


EVIL_ADDRESSES = (
    "https://evil.example/",
    "//evil.example",
    "/\\evil.example",
    "https:evil.example",
    "javascript:1",
)


@pytest.mark.one_database
def test_no_address_leads_to_another_site(
    workspace: Workspace, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where an answer leads is settled before a page is drawn, which is most of the work of a thousand answers.
    monkeypatch.setattr(Template, "render", lambda *_: "")
    client = logged_in(alice)
    for route in routes():
        for method, data in (("get", {}), ("post", {"workspace": str(workspace.pk), "language": "en"})):
            for evil in EVIL_ADDRESSES:
                answer = getattr(client, method)(route.path, {"next": evil, **data})
                assert "evil" not in answer.headers.get("Location", "").split("?")[0], (route, evil)
                if SESSION_KEY not in client.session:
                    client = logged_in(alice)
                if answer.status_code in (401, 404, 405):
                    break  # Nothing is there that would read where to go next.


def test_a_login_gets_a_session_of_its_own_and_cookies_scripts_cannot_read(
    workspace: Workspace, alice: User
) -> None:
    client = Client()
    client.post("/accounts/login/", {"login": alice.email, "password": "wrong"})
    session = client.session
    session["planted"] = "1"
    session.save()
    name = settings.SESSION_COOKIE_NAME
    client.cookies[name] = before = str(session.session_key)
    client.post("/accounts/login/", {"login": alice.email, "password": "correct horse 1"})
    cookie = client.cookies[name]
    assert cookie.value != before
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert client.get("/settings/").status_code == 200
