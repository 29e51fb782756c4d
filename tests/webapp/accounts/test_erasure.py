"""Deleting a person: who may, what goes with them, and that all of it goes or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from django.contrib.sessions.models import Session
from django.test import Client

from webapp.accounts import erasure, invitations
from webapp.accounts.erasure import ErasureLine, register_eraser
from webapp.accounts.models import AuditEvent, Invitation, Membership, Role, User, Workspace

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]


@pytest.fixture
def own_erasers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations of a test end with it."""
    monkeypatch.setattr(erasure, "_erasers", dict(erasure._erasers))


def test_deleting_an_account_needs_the_password(workspace: Workspace, bob: User, logged_in: LogIn) -> None:
    client = logged_in(bob)
    answer = client.post("/settings/delete/", {"password": "wrong"})
    assert answer.status_code == 400
    assert "That is not your password." in answer.content.decode()
    assert client.post("/settings/delete/", {}).status_code == 400
    assert User.objects.filter(pk=bob.pk).exists()


def test_guessing_the_password_there_is_limited(workspace: Workspace, bob: User, logged_in: LogIn) -> None:
    client = logged_in(bob)
    codes = [client.post("/settings/delete/", {"password": "guess"}).status_code for _ in range(11)]
    assert codes[-1] == 429


def test_a_deleted_person_is_gone_everywhere_and_the_log_no_longer_names_them(
    workspace: Workspace, alice: User, bob: User, logged_in: LogIn
) -> None:
    client, phone = logged_in(bob), logged_in(bob)
    phone.get("/settings/")
    client.get("/settings/")
    own = Workspace.objects.create(name="Bob's own")
    Membership.objects.create(workspace=own, user=bob, role=Role.OWNER)
    invitations.invite(actor=bob, workspace_id=own.pk, role="member")
    answer = client.post("/settings/delete/", {"password": "correct horse 2"})
    assert answer.status_code == 200
    assert "Your account is deleted" in answer.content.decode()
    assert not User.objects.filter(pk=bob.pk).exists()
    assert not Workspace.objects.filter(pk=own.pk).exists()
    assert not Invitation.objects.exists()
    assert Membership.objects.filter(workspace=workspace).count() == 1
    assert phone.get("/settings/").status_code == 302
    assert not any(str(bob.pk) in str(s.get_decoded()) for s in Session.objects.all())
    logins = AuditEvent.objects.filter(action="login")
    assert logins.exists()
    assert not logins.filter(ip__isnull=False).exists()
    assert AuditEvent.objects.filter(action="person_erased", workspace=workspace).exists()
    assert (
        client.post("/accounts/login/", {"login": bob.email, "password": "correct horse 2"}).status_code
        == 200
    )


def test_the_only_owner_of_others_workspace_must_hand_it_over_first(
    workspace: Workspace, alice: User, bob: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    assert "Make one of them an owner first" in client.get("/settings/delete/").content.decode()
    answer = client.post("/settings/delete/", {"password": "correct horse 1"})
    assert answer.status_code == 409
    assert "only owner of Acme" in answer.content.decode()
    Membership.objects.filter(user=bob).update(role=Role.OWNER)
    assert client.post("/settings/delete/", {"password": "correct horse 1"}).status_code == 200
    assert Workspace.objects.filter(pk=workspace.pk).exists()


def test_every_app_erases_its_part_and_its_lines_are_shown(
    workspace: Workspace, bob: User, logged_in: LogIn, own_erasers: None
) -> None:
    asked: list[User] = []

    def notes(user: User) -> Iterable[ErasureLine]:
        asked.append(user)
        yield ErasureLine("Notes", 3, "with their drafts")

    register_eraser("notes", notes)
    page = logged_in(bob).post("/settings/delete/", {"password": "correct horse 2"}).content.decode()
    assert asked == [bob]
    assert "Notes" in page
    assert "with their drafts" in page


def test_an_eraser_that_fails_leaves_everything_as_it_was(
    workspace: Workspace, bob: User, own_erasers: None
) -> None:
    def breaks(user: User) -> Iterable[ErasureLine]:
        Membership.objects.filter(user=user).delete()
        raise RuntimeError("disk full")

    register_eraser("breaks", breaks)
    with pytest.raises(RuntimeError):
        erasure.erase_user(user=bob)
    assert Membership.objects.filter(user=bob).exists()
    assert User.objects.filter(pk=bob.pk).exists()


def test_two_erasers_cannot_share_a_name(own_erasers: None) -> None:
    register_eraser("notes", lambda user: [])
    with pytest.raises(ValueError, match="notes"):
        register_eraser("notes", lambda user: [])


def test_a_person_without_a_password_types_their_address(
    workspace: Workspace, bob: User, logged_in: LogIn
) -> None:
    bob.set_unusable_password()
    bob.save()
    client = logged_in(bob)
    assert client.post("/settings/delete/", {"email": "alice@example.org"}).status_code == 400
    assert client.post("/settings/delete/", {"email": "BOB@example.org"}).status_code == 200
    assert not User.objects.filter(pk=bob.pk).exists()
