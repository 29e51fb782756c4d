"""An empty site: who may set it up, and that it happens once."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from pytest_django.fixtures import Settings

from webapp.accounts import services
from webapp.accounts.models import AuditEvent, Membership, Role, User, Workspace
from webapp.accounts.setup_code import setup_code
from webapp.core.errors import UserError

FORM = {"name": "Olga", "email": "Olga@Example.org", "password": "a long secret 7", "workspace": "Acme"}
PROXIES: list[dict[str, str]] = [
    {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
    {"HTTP_FORWARDED": "for=127.0.0.1"},
    {"HTTP_X_REAL_IP": "127.0.0.1"},
    {"HTTP_X_FORWARDED_HOST": "localhost"},
    {"HTTP_VIA": "1.1 proxy"},
    {"REMOTE_ADDR": "192.0.2.7"},
    {"REMOTE_ADDR": ""},
    {"HTTP_HOST": "chat.example.org"},
]


@pytest.fixture
def client(settings: Settings) -> Client:
    """A browser on the machine itself."""
    settings.ALLOWED_HOSTS = ["localhost", "chat.example.org"]
    return Client(HTTP_HOST="localhost")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path", ["/", "/accounts/login/", "/accounts/signup/", "/settings/", "/invite/x/", "/nowhere/"]
)
def test_every_page_of_an_empty_site_leads_to_set_up(client: Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/setup/")


@pytest.mark.django_db
def test_a_program_asking_an_empty_site_is_told_in_json(client: Client) -> None:
    answer = client.get("/v1/models", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_set_up")


@pytest.mark.django_db
def test_the_first_visit_from_this_machine_creates_the_owner_and_logs_them_in(client: Client) -> None:
    assert b'name="code"' not in client.get("/setup/").content
    answer = client.post("/setup/", FORM)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    owner = User.objects.get()
    assert (owner.email, owner.name, owner.is_staff) == ("olga@example.org", "Olga", True)
    assert Membership.objects.get().role == Role.OWNER
    assert Workspace.objects.get().name == "Acme"
    assert client.get("/settings/").status_code == 200
    assert AuditEvent.objects.filter(action="owner_created", actor=owner).exists()


@pytest.mark.django_db
@pytest.mark.parametrize("meta", PROXIES)
def test_anyone_who_may_be_elsewhere_needs_the_set_up_code(client: Client, meta: dict[str, str]) -> None:
    page = client.get("/setup/", **meta).content
    assert b'name="code"' in page
    assert b"deploy/manage setupcode" in page  # where `manage.py` would look at an empty site of its own
    assert client.post("/setup/", FORM, **meta).status_code == 400
    assert client.post("/setup/", FORM | {"code": "aaaa-bbbb-cccc-dddd"}, **meta).status_code == 400
    assert not User.objects.exists()
    typed = setup_code().upper().replace("-", " ")
    assert client.post("/setup/", FORM | {"code": typed}, **meta).status_code == 302
    assert User.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("site", ["https://chat.example.org", "http://chat.example.org"])
def test_a_public_site_asks_for_the_code_even_on_loopback(
    client: Client, settings: Settings, site: str
) -> None:
    settings.SITE_URL, settings.HTTPS = site, site.startswith("https")
    assert client.post("/setup/", FORM).status_code == 400


@pytest.mark.django_db
def test_guessing_the_set_up_code_is_limited(client: Client) -> None:
    codes = [
        client.post("/setup/", FORM | {"code": str(n)}, REMOTE_ADDR="192.0.2.7").status_code
        for n in range(12)
    ]
    assert codes[:10] == [400] * 10
    assert codes[10:] == [429] * 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "no"), ("password", "short"), ("password", ""), ("workspace", " "), ("name", "a\x00b")],
)
def test_set_up_says_what_is_wrong_with_a_field(client: Client, field: str, value: str) -> None:
    answer = client.post("/setup/", FORM | {field: value})
    assert answer.status_code == 400
    assert b"field-error" in answer.content
    assert not User.objects.exists()


@pytest.mark.django_db
def test_set_up_does_not_exist_once_there_is_an_owner(client: Client, alice: User) -> None:
    assert client.get("/setup/").status_code == 404
    assert client.post("/setup/", FORM).status_code == 409
    assert User.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_set_ups_at_once_make_one_owner() -> None:
    barrier = threading.Barrier(2)
    outcomes: list[Any] = []

    def set_up(email: str) -> None:
        try:
            barrier.wait(10)
            outcomes.append(services.create_owner(email=email, password="a long secret 7")[0].email)
        except UserError as error:
            outcomes.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=set_up, args=(email,)) for email in ("a@example.org", "b@example.org")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert "already_set_up" in outcomes
    assert [o for o in outcomes if o != "already_set_up"] == [User.objects.get().email]
    assert Workspace.objects.count() == 1


@pytest.mark.django_db
def test_createowner_makes_the_owner_and_repeats_harmlessly(
    capsys: pytest.CaptureFixture[str], client: Client
) -> None:
    for _ in range(2):
        call_command(
            "createowner",
            "--email",
            "Olga@example.org",
            "--password",
            "a long secret 7",
            "--workspace",
            "Acme",
        )
    assert "nothing was changed" in capsys.readouterr().out
    assert [w.name for w in Workspace.objects.all()] == ["Acme"]
    answer = client.post("/accounts/login/", {"login": "olga@example.org", "password": "a long secret 7"})
    assert answer.status_code == 302
    call_command("createowner", "--email", "olga@example.org", "--password", "another secret 8")
    assert User.objects.get().check_password("a long secret 7")


@pytest.mark.django_db
@pytest.mark.parametrize(("email", "password"), [("nonsense", "a long secret 7"), ("b@example.org", "")])
def test_createowner_refuses_nonsense_in_a_sentence(email: str, password: str) -> None:
    with pytest.raises(CommandError, match=r"\.$"):
        call_command("createowner", "--email", email, "--password", password)


@pytest.mark.django_db
def test_createowner_makes_no_second_owner(alice: User) -> None:
    with pytest.raises(CommandError, match="owner already"):
        call_command("createowner", "--email", "b@example.org", "--password", "a long secret 7")


@pytest.mark.django_db
def test_a_second_operator_sees_the_status_page_until_they_are_none_any_more(
    alice: User, bob: User, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    client.force_login(bob)
    assert client.get("/status/").status_code == 404
    call_command("operators", "--add", "Bob@example.org")
    assert capsys.readouterr().out.split() == ["alice@example.org", "bob@example.org"]
    assert client.get("/status/").status_code == 200
    call_command("operators", "--remove", "bob@example.org")
    assert client.get("/status/").status_code == 404
    with pytest.raises(CommandError, match="the only operator"):
        call_command("operators", "--remove", "alice@example.org")
    with pytest.raises(CommandError, match="Nobody here has the address"):
        call_command("operators", "--add", "nobody@example.org")
    told = AuditEvent.objects.filter(action__startswith="operator_").order_by("at")
    assert [(each.actor, each.action) for each in told] == [(bob, "operator_made"), (bob, "operator_removed")]
