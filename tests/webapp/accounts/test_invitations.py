"""Invitations from making to joining: shown once, used once, gone after a week."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from webapp.accounts import invitations
from webapp.accounts.models import AuditEvent, Invitation, Membership, Role, User, Workspace
from webapp.core.errors import UserError

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]


def make(client: Client, workspace: Workspace, role: str = "member", email: str = "") -> str:
    """The path of a new invitation's link, read off the page."""
    page = client.post(
        f"/workspaces/{workspace.pk}/invitations/", {"role": role, "email": email}
    ).content.decode()
    found = re.search(r'value="http://testserver(/invite/[\w-]{43}/)"', page)
    assert found
    return found[1]


def test_an_invitation_is_shown_once_and_stored_as_a_hash_only(
    workspace: Workspace, alice: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    path = make(client, workspace)
    token = path.split("/")[2]
    assert token not in client.get("/settings/workspace/").content.decode()
    stored = Invitation.objects.get()
    assert stored.token_hash == invitations.token_hash(token)
    assert token not in str(vars(stored))
    assert token not in str(client.session.items())


def test_a_logged_in_person_follows_a_link_and_is_in(
    workspace: Workspace, alice: User, charlie: User, elsewhere: Workspace, logged_in: LogIn
) -> None:
    path = make(logged_in(alice), workspace, "admin")
    client = logged_in(charlie)
    assert "Alice invites you as admin" in client.get(path).content.decode()
    assert not Membership.objects.filter(workspace=workspace, user=charlie).exists(), "looking is not joining"
    assert client.post(path).status_code == 302
    assert Membership.objects.get(workspace=workspace, user=charlie).role == Role.ADMIN
    assert "Acme" in client.get("/settings/workspace/").content.decode(), "it is the current one now"
    assert client.get(path).status_code == 404, "used"
    actions = set(AuditEvent.objects.filter(workspace=workspace).values_list("action", flat=True))
    assert {"invitation_made", "invitation_accepted"} <= actions


def test_a_stranger_logs_in_first_and_comes_back(
    workspace: Workspace, alice: User, charlie: User, logged_in: LogIn
) -> None:
    path = make(logged_in(alice), workspace)
    client = Client()
    page = client.get(path).content.decode()
    login = re.search(r'href="(/accounts/login/\?next=[^"]+)"', page)
    assert login
    answer = client.post(login[1], {"login": charlie.email, "password": "correct horse 3", "next": path})
    assert answer.headers["Location"] == path
    client.post(path)
    assert Membership.objects.filter(workspace=workspace, user=charlie).exists()


def test_a_link_stops_working_when_it_is_revoked_or_old_or_made_up(
    workspace: Workspace, alice: User, charlie: User, logged_in: LogIn
) -> None:
    client, guest = logged_in(alice), logged_in(charlie)
    revoked, old = make(client, workspace), make(client, workspace)
    first = Invitation.objects.order_by("created_at").first()
    assert first
    assert client.post(f"/workspaces/{workspace.pk}/invitations/{first.pk}/revoke/").status_code == 302
    Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    answers = [guest.get(path) for path in (revoked, old, "/invite/made-up/", "/invite/%F0%9F%92%A9%00/")]
    assert [a.status_code for a in answers] == [404] * 4
    assert len({a.content for a in answers[:3]}) == 1, "nobody can tell which it was"
    assert guest.post(old).status_code == 404
    assert not Membership.objects.filter(workspace=workspace, user=charlie).exists()
    assert AuditEvent.objects.filter(action="invitation_revoked").exists()


def test_an_invitation_lasts_seven_days(workspace: Workspace, alice: User) -> None:
    made = invitations.invite(actor=alice, workspace_id=workspace.pk, role="member")[0]
    assert abs(made.expires_at - timezone.now() - timedelta(days=7)) < timedelta(minutes=1)


def test_an_invitation_for_one_person_admits_no_other(
    workspace: Workspace, alice: User, charlie: User, logged_in: LogIn
) -> None:
    client = logged_in(charlie)
    path = make(logged_in(alice), workspace, email="dora@example.org")
    assert client.get(path).status_code == 403
    assert client.post(path).status_code == 403
    path = make(logged_in(alice), workspace, email="Charlie@Example.org")
    assert client.post(path).status_code == 302


def test_a_member_who_opens_a_link_keeps_their_role_and_leaves_it_to_others(
    workspace: Workspace, alice: User, charlie: User, logged_in: LogIn
) -> None:
    path = make(logged_in(alice), workspace)
    assert logged_in(alice).post(path).status_code == 302
    assert Membership.objects.get(workspace=workspace, user=alice).role == Role.OWNER
    assert logged_in(charlie).post(path).status_code == 302


def test_an_admin_cannot_invite_an_owner(workspace: Workspace, bob: User, logged_in: LogIn) -> None:
    Membership.objects.filter(user=bob).update(role=Role.ADMIN)
    answer = logged_in(bob).post(f"/workspaces/{workspace.pk}/invitations/", {"role": "owner"})
    assert answer.status_code == 400
    with pytest.raises(UserError):
        invitations.invite(actor=bob, workspace_id=workspace.pk, role="owner")
    assert not Invitation.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_link_used_twice_at_once_admits_one(workspace: Workspace, alice: User, charlie: User) -> None:
    dora = User.objects.create_user("dora@example.org", "x", name="Dora")
    _made, token = invitations.invite(actor=alice, workspace_id=workspace.pk, role="member")
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def accept(user: User) -> None:
        try:
            barrier.wait(10)
            invitations.accept_invitation(user=user, hashed=invitations.token_hash(token))
            outcomes.append("in")
        except UserError as error:
            outcomes.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=accept, args=(user,)) for user in (charlie, dora)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["in", "invitation_gone"]
    assert Membership.objects.filter(workspace=workspace, user__in=[charlie, dora]).count() == 1
