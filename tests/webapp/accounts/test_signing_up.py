"""Creating an account, in each of the three modes, and what a taken address gives away."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.core import mail
from django.db import IntegrityError
from django.test import Client
from pytest_django.fixtures import Settings

from webapp.accounts import forms, invitations
from webapp.accounts.models import Membership, Role, User, Workspace

pytestmark = pytest.mark.django_db
FORM = {"name": "Dora", "email": "Dora@Example.org", "password1": "a long secret 7"}


@pytest.fixture
def with_mail(settings: Settings) -> None:
    """As where EMAIL_URL is set: addresses are confirmed before anybody comes in."""
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"


def link_in(message: mail.EmailMessage) -> str:
    found = re.search(r"https?://[^/\s]+(/\S+)", str(message.body))
    assert found
    return found[1]


def test_an_open_site_gives_a_new_person_a_workspace_of_their_own(client: Client, alice: User) -> None:
    assert client.get("/accounts/signup/").status_code == 200
    answer = client.post("/accounts/signup/", FORM)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    dora = User.objects.get(email="dora@example.org")
    membership = Membership.objects.get(user=dora)
    assert (dora.name, membership.role, membership.workspace.name) == ("Dora", Role.OWNER, "Dora's workspace")
    assert client.get("/settings/").status_code == 200


@pytest.mark.parametrize("mode", ["invite", "closed"])
def test_a_site_that_is_not_open_lets_nobody_sign_up(
    client: Client, alice: User, settings: Settings, mode: str
) -> None:
    settings.SIGNUP = mode
    for answer in (client.get("/accounts/signup/"), client.post("/accounts/signup/", FORM)):
        assert "not open to everyone" in answer.content.decode()
    assert User.objects.count() == 1
    assert "/accounts/signup/" not in client.get("/accounts/login/").content.decode()


def test_an_invitation_opens_a_site_by_invitation_and_joins_its_workspace(
    client: Client, alice: User, workspace: Workspace, settings: Settings
) -> None:
    settings.SIGNUP = "invite"
    _invitation, token = invitations.invite(actor=alice, workspace_id=workspace.pk, role="admin")
    assert "Acme" in client.get(f"/invite/{token}/").content.decode()
    assert client.post("/accounts/signup/", FORM).status_code == 302
    membership = Membership.objects.get(user__email="dora@example.org")
    assert (membership.workspace, membership.role) == (workspace, Role.ADMIN)
    assert "not open" in Client().get("/accounts/signup/").content.decode()
    # Used up: the link lets no second person in.
    second = Client()
    assert second.get(f"/invite/{token}/").status_code == 404
    second.post("/accounts/signup/", FORM | {"email": "eve@example.org"})
    assert not User.objects.filter(email="eve@example.org").exists()


def test_an_invitation_does_not_open_a_closed_site(
    client: Client, alice: User, workspace: Workspace, settings: Settings
) -> None:
    settings.SIGNUP = "closed"
    _invitation, token = invitations.invite(actor=alice, workspace_id=workspace.pk, role="member")
    assert "/accounts/signup/" not in client.get(f"/invite/{token}/").content.decode()
    client.post("/accounts/signup/", FORM)
    assert User.objects.filter(email="dora@example.org").count() == 0


def test_an_invitation_taken_meanwhile_leaves_no_account_behind(
    client: Client, alice: User, workspace: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SIGNUP = "invite"
    made, token = invitations.invite(actor=alice, workspace_id=workspace.pk, role="member")
    client.get(f"/invite/{token}/")
    save = forms.allauth_forms.SignupForm.save

    def taken_meanwhile(form: forms.SignupForm, request: object) -> User:
        made.delete()
        user: User = save(form, request)
        return user

    monkeypatch.setattr(forms.allauth_forms.SignupForm, "save", taken_meanwhile)
    assert client.post("/accounts/signup/", FORM).status_code == 404
    assert not User.objects.filter(email="dora@example.org").exists()


def test_an_invitation_for_one_address_admits_no_other(
    client: Client, alice: User, workspace: Workspace, settings: Settings
) -> None:
    settings.SIGNUP = "invite"
    _invitation, token = invitations.invite(
        actor=alice, workspace_id=workspace.pk, role="member", email="Dora@example.org"
    )
    client.get(f"/invite/{token}/")
    refused = client.post("/accounts/signup/", FORM | {"email": "eve@example.org"})
    assert "for another address" in refused.content.decode()
    assert client.post("/accounts/signup/", FORM).status_code == 302
    assert Membership.objects.filter(user__email="dora@example.org", workspace=workspace).exists()


def test_where_mail_works_a_new_person_confirms_their_address_first(
    client: Client, alice: User, with_mail: None
) -> None:
    answer = client.post("/accounts/signup/", FORM)
    assert answer.headers["Location"] == "/accounts/confirm-email/"
    assert client.get("/settings/").status_code == 302
    assert mail.outbox[-1].to == ["dora@example.org"]
    confirm = link_in(mail.outbox[-1])
    assert "Is <strong>dora@example.org</strong> yours?" in client.get(confirm).content.decode()
    client.post(confirm)
    client.post("/accounts/login/", {"login": "dora@example.org", "password": "a long secret 7"})
    assert client.get("/settings/").status_code == 200


def test_a_taken_address_is_answered_like_a_new_one(client: Client, alice: User, with_mail: None) -> None:
    new = client.post("/accounts/signup/", FORM)
    taken = Client().post("/accounts/signup/", FORM | {"email": "ALICE@example.org"})
    assert (taken.status_code, taken.headers["Location"]) == (new.status_code, new.headers["Location"])
    assert "You have an account already" in mail.outbox[-1].subject
    assert mail.outbox[-1].to == ["alice@example.org"]
    assert User.objects.filter(email__iexact="alice@example.org").count() == 1


def test_two_sign_ups_at_once_with_one_address_make_one_account(
    client: Client, alice: User, with_mail: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second passes the check while the first is being saved, and meets it in the database."""
    check = forms.SignupForm.validate_unique_email
    blind = [True]

    def blind_once(form: forms.SignupForm, value: str) -> str:
        if blind.pop() if blind else False:
            form.account_already_exists = False
            return value
        email: str = check(form, value)
        return email

    monkeypatch.setattr(forms.SignupForm, "validate_unique_email", blind_once)
    answer = client.post("/accounts/signup/", FORM | {"email": "alice@example.org"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/accounts/confirm-email/")
    assert User.objects.filter(email__iexact="alice@example.org").count() == 1


def test_the_database_itself_keeps_an_address_to_one_person(alice: User) -> None:
    with pytest.raises(IntegrityError):
        User.objects.create_user("ALICE@example.org", "x")


@pytest.mark.parametrize("name", ["a\x07b", "x" * 81])
def test_a_name_that_cannot_be_shown_is_refused(client: Client, alice: User, name: str) -> None:
    answer = client.post("/accounts/signup/", FORM | {"name": name})
    assert "field-error" in answer.content.decode()
    assert User.objects.count() == 1


def test_mail_that_cannot_be_sent_is_a_sentence_not_a_crash(
    client: Client, alice: User, with_mail: None, settings: Settings
) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    answer = client.post("/accounts/password/reset/", {"email": alice.email})
    assert answer.status_code == 503
    assert "could not send" in answer.content.decode()


def test_sign_ups_from_one_address_are_limited(alice: User) -> None:
    codes = [Client().post("/accounts/signup/", {"email": "no"}).status_code for _ in range(22)]
    assert codes[-1] == 429


LogIn = Callable[[User], Client]


@pytest.mark.parametrize(
    ("mode", "who", "status"), [("open", "bob", 200), ("invite", "bob", 403), ("invite", "alice", 200)]
)
def test_where_sign_up_is_not_open_only_owners_make_workspaces(
    workspace: Workspace,
    settings: Settings,
    logged_in: LogIn,
    request: pytest.FixtureRequest,
    mode: str,
    who: str,
    status: int,
) -> None:
    settings.SIGNUP = mode
    answer = logged_in(request.getfixturevalue(who)).post("/workspaces/new/", {"name": "Second"}, follow=True)
    assert answer.status_code == status
    assert Workspace.objects.filter(name="Second").exists() == (status == 200)
