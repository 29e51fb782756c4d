"""Logging in and staying in: passwords, second factors, sessions, and what of it is recorded."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django.fixtures import Settings

from tests.services import Valkey
from webapp.accounts.models import AuditEvent, User, Workspace

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse 1"
LogIn = Callable[[User], Client]


@pytest.fixture
def browser(workspace: Workspace, alice: User) -> Client:
    """Alice's, logged in with her password just now, and asked again."""
    client = Client(headers={"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"})
    assert log_in(client).status_code == 302
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    return client


def log_in(client: Client, password: str = PASSWORD):  # type: ignore[no-untyped-def]
    return client.post("/accounts/login/", {"login": "alice@example.org", "password": password})


def totp_code(secret: str) -> str:
    """What the app shows now. The oldest that is taken would be stale a moment later."""
    _before, counter, _after = yield_hotp_counters_from_time()
    code: str = format_hotp_value(hotp_value(secret, counter))
    return code


def is_in(client: Client) -> bool:
    return client.get("/settings/").status_code == 200


def actions() -> list[str]:
    return list(AuditEvent.objects.order_by("id").values_list("action", flat=True))


@pytest.fixture
def recovery_codes(browser: Client) -> list[str]:
    """Two-factor login is on; these are the codes shown at the end."""
    page = browser.get("/accounts/2fa/totp/activate/").content.decode()
    found = re.search(r'id="authenticator_secret"[^>]*value="([A-Z2-7]+)"', page)
    assert found
    answer = browser.post("/accounts/2fa/totp/activate/", {"code": totp_code(found[1])})
    assert answer.status_code == 302
    shown = browser.get("/accounts/2fa/recovery-codes/").content.decode()
    codes = re.findall(r"\b\d{8}\b", shown.split("<textarea", 1)[1].split("</textarea>")[0])
    assert len(codes) == 10
    return codes


def test_the_right_password_lets_in_and_a_wrong_one_says_nothing_about_which_part(
    workspace: Workspace, client: Client
) -> None:
    wrong = log_in(client, "wrong horse 1").content.decode()
    unknown = client.post(
        "/accounts/login/", {"login": "nobody@example.org", "password": "x"}
    ).content.decode()
    sentence = "That email address and password do not belong together."
    assert sentence in wrong
    assert sentence in unknown
    assert not is_in(client)
    assert log_in(client).headers["Location"] == "/"
    assert is_in(client)
    assert actions() == ["login_failed", "login_failed", "login"]


def test_guessing_a_password_is_stopped_even_from_many_addresses(workspace: Workspace) -> None:
    for n in range(5):
        Client(REMOTE_ADDR=f"192.0.2.{n}").post(
            "/accounts/login/", {"login": "alice@example.org", "password": "guess"}
        )
    answer = log_in(Client(REMOTE_ADDR="192.0.2.99"))
    assert "Too many attempts" in answer.content.decode()


def test_a_deactivated_person_cannot_log_in(workspace: Workspace, alice: User, client: Client) -> None:
    User.objects.filter(pk=alice.pk).update(is_active=False)
    log_in(client)
    assert not is_in(client)


def test_logging_out_ends_the_login(browser: Client) -> None:
    assert "Log out?" in browser.get("/accounts/logout/").content.decode()
    assert is_in(browser)
    browser.post("/accounts/logout/")
    assert not is_in(browser)
    assert "logout" in actions()


def test_with_an_authenticator_app_the_password_alone_is_not_enough(
    recovery_codes: list[str], alice: User, broker: Valkey
) -> None:
    client = Client()
    assert log_in(client).headers["Location"] == "/accounts/2fa/authenticate/"
    assert not is_in(client)
    assert "Second step" in client.get("/accounts/2fa/authenticate/").content.decode()
    assert "not right" in client.post("/accounts/2fa/authenticate/", {"code": "000000"}).content.decode()
    assert AuditEvent.objects.filter(action="login_failed", actor=alice, detail={"factor": "totp"}).exists()
    code = totp_code(Authenticator.objects.get(user=alice, type="totp").data["secret"])
    assert client.post("/accounts/2fa/authenticate/", {"code": code}).status_code == 302
    assert is_in(client)
    second = Client()
    log_in(second)
    second.post("/accounts/2fa/authenticate/", {"code": code})
    assert not is_in(second), "a code works once"
    # allauth forgets it after 30 s, and the code is still valid then.
    with broker.client() as client_of_broker:
        client_of_broker.delete(*client_of_broker.keys("*allauth.mfa.totp.used*"))
    second.post("/accounts/2fa/authenticate/", {"code": f"{code[:3]} {code[3:]}"})
    assert not is_in(second), "however it is written, and for as long as it is valid"
    with broker.client() as client_of_broker:
        client_of_broker.delete(*client_of_broker.keys("*allauth.mfa.totp.used*"))
    shown = client.post("/accounts/2fa/reauthenticate/", {"code": code}).content.decode()
    assert "not right" in shown, "nor to show who is there"


def test_a_recovery_code_lets_in_once(recovery_codes: list[str]) -> None:
    first, second = Client(), Client()
    log_in(first)
    assert first.post("/accounts/2fa/authenticate/", {"code": recovery_codes[0]}).status_code == 302
    assert is_in(first)
    log_in(second)
    second.post("/accounts/2fa/authenticate/", {"code": recovery_codes[0]})
    assert not is_in(second)


@pytest.mark.django_db(transaction=True)
def test_turning_the_second_factor_on_and_off_is_recorded_and_off_means_off(
    browser: Client, recovery_codes: list[str]
) -> None:
    browser.post("/accounts/2fa/totp/deactivate/")
    assert {"two_factor_on", "two_factor_off"} <= set(actions())
    client = Client()
    log_in(client)
    assert is_in(client)


def test_changing_how_one_logs_in_asks_again_who_is_there(workspace: Workspace, client: Client) -> None:
    log_in(client)
    asked = client.get("/accounts/2fa/totp/activate/").headers["Location"]
    assert asked.startswith("/accounts/reauthenticate/")
    answer = client.post("/accounts/email/", {"email": "a.lee@example.org", "action_add": ""})
    assert answer.headers["Location"].startswith("/accounts/reauthenticate/")
    assert not mail.outbox
    refused = client.post("/accounts/reauthenticate/", {"password": "wrong"}).content.decode()
    assert "That is not your password." in refused


def test_the_sessions_page_ends_every_other_login(browser: Client, alice: User) -> None:
    other = Client()
    log_in(other)
    page = browser.get("/accounts/sessions/").content.decode()
    assert "Firefox on Linux" in page
    assert page.count("<tr>") == 3
    browser.post("/accounts/sessions/")
    assert not is_in(other)
    assert is_in(browser)
    assert "session_ended" in actions()


def test_when_a_login_was_last_used_is_not_written_on_every_page(browser: Client) -> None:
    browser.get("/settings/")
    with CaptureQueriesContext(connection) as queries:
        browser.get("/settings/workspace/")
    writes = [q["sql"] for q in queries if q["sql"].startswith(("UPDATE", "INSERT"))]
    assert not [sql for sql in writes if "usersession" in sql.lower()]


def test_a_new_password_logs_every_other_browser_out(browser: Client) -> None:
    other = Client()
    log_in(other)
    form = {"oldpassword": PASSWORD, "password1": "another horse 9", "password2": "another horse 9"}
    assert browser.post("/accounts/password/change/", form).status_code == 302
    assert is_in(browser)
    assert not is_in(other)
    assert "password_changed" in actions()
    assert mail.outbox[-1].to == ["alice@example.org"]


def test_a_forgotten_password_is_reset_through_the_mail(
    workspace: Workspace, client: Client, browser: Client
) -> None:
    client.post("/accounts/password/reset/", {"email": "alice@example.org"})
    link = re.search(r"http://testserver(/\S+)", str(mail.outbox[-1].body))
    assert link
    form_page = client.get(link[1], follow=True)
    assert "Choose a new password" in form_page.content.decode()
    path = form_page.redirect_chain[-1][0]
    client.post(path, {"password1": "another horse 9", "password2": "another horse 9"})
    assert not is_in(browser), "whoever knew the old password is out"
    assert log_in(Client(), "another horse 9").headers["Location"] == "/"
    assert "no longer works" in Client().get(link[1], follow=True).content.decode()
    assert "password_reset" in actions()


def test_a_reset_mail_links_to_this_site_whatever_host_was_asked_for(
    workspace: Workspace, settings: Settings
) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    settings.SITE_URL, settings.SITE_URL_GIVEN = "https://chat.example.org", True
    client = Client(HTTP_HOST="evil.example")
    client.post("/accounts/password/reset/", {"email": "alice@example.org"})
    (sent,) = mail.outbox
    assert "https://chat.example.org/accounts/password/reset/key/" in sent.body
    assert "evil.example" not in f"{sent.body}{sent.subject}"


def test_asking_for_a_reset_does_not_tell_whether_an_address_is_known(
    workspace: Workspace, client: Client
) -> None:
    known = client.post("/accounts/password/reset/", {"email": "alice@example.org"})
    unknown = client.post("/accounts/password/reset/", {"email": "nobody@example.org"})
    assert (known.status_code, known.headers["Location"]) == (
        unknown.status_code,
        unknown.headers["Location"],
    )


def test_a_new_address_counts_once_its_mail_is_opened(browser: Client, alice: User) -> None:
    browser.post("/accounts/email/", {"email": "a.lee@example.org", "action_add": ""})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    assert "a.lee@example.org" in browser.get("/accounts/email/").content.decode()
    confirmation = next(m for m in mail.outbox if m.to == ["a.lee@example.org"])
    link = re.search(r"http://testserver(/\S+)", str(confirmation.body))
    assert link
    browser.post(link[1])
    alice.refresh_from_db()
    assert alice.email == "a.lee@example.org"
    assert "email_changed" in actions()
    assert log_in(Client()).status_code == 200, "the old address no longer logs in"


def test_somebody_elses_address_is_never_taken_over(browser: Client, alice: User, bob: User) -> None:
    answer = browser.post("/accounts/email/", {"email": bob.email, "action_add": ""})
    assert answer.status_code == 302
    assert "You have an account already" in mail.outbox[-1].subject
    # Somebody signs up with the address between the mail and the click.
    browser.post("/accounts/email/", {"email": "a.lee@example.org", "action_add": ""})
    link = re.search(r"http://testserver(/\S+)", str(mail.outbox[-1].body))
    assert link
    User.objects.create_user("a.lee@example.org", "another horse 9")
    assert browser.post(link[1]).status_code < 500
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"


def test_passkey_pages_carry_what_the_browser_needs(browser: Client, client: Client) -> None:
    page = browser.get("/accounts/2fa/webauthn/add/").content.decode()
    assert '"creation_options"' in page
    for script in ("mfa/js/webauthn.js", "account/js/onload.js", "flywheel/js/account.js"):
        assert script in page
    options = client.get("/accounts/2fa/webauthn/login/", headers={"Accept": "application/json"}).json()
    assert options["request_options"]["publicKey"]["challenge"]


def test_a_made_up_passkey_does_not_log_in(client: Client, workspace: Workspace) -> None:
    client.get("/accounts/2fa/webauthn/login/", headers={"Accept": "application/json"})
    for credential in (
        "{}",
        "nonsense",
        '{"id": "x", "rawId": "x", "type": "public-key", "response": {}}',
        "",
    ):
        answer = client.post("/accounts/2fa/webauthn/login/", {"credential": credential})
        assert answer.status_code < 500
        assert not is_in(client)


def test_what_was_typed_at_a_failed_login_is_not_kept(workspace: Workspace, client: Client) -> None:
    client.post("/accounts/login/", {"login": "hunter2@example.org", "password": "hunter2"})
    event = AuditEvent.objects.get(action="login_failed")
    assert event.actor is None
    assert "hunter2" not in str(event.detail)
    assert event.ip == "127.0.0.1"


def test_who_was_logged_out_meanwhile_is_led_back_to_the_form_and_told_that_it_did_nothing(
    workspace: Workspace, alice: User, client: Client
) -> None:
    switch, form = reverse("workspace_switch"), "http://testserver/settings/?tab=1"
    answer = client.post(switch, {"workspace": str(workspace.pk)}, headers={"Referer": form})
    asked = answer.headers["Location"]
    assert asked == "/accounts/login/?next=/settings/%3Ftab%3D1"
    assert "You were logged out, so that was not done." in client.get(asked).content.decode()
    answer = client.post(
        asked, {"login": "alice@example.org", "password": PASSWORD, "next": "/settings/?tab=1"}
    )
    assert answer.headers["Location"] == "/settings/?tab=1"
    # Of a page elsewhere, or of none that says so, there is no way back.
    for referer in ({"Referer": "https://elsewhere.example/"}, {}):
        assert Client().post(switch, headers=referer).headers["Location"] == "/accounts/login/?next=/"
    # A page that was only looked at is led back to, as ever.
    assert Client().get("/settings/").headers["Location"] == "/accounts/login/?next=/settings/"
