"""Workspaces: their members and roles, several at once, and that one always has an owner."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client

from webapp.accounts import access, services
from webapp.accounts.models import AuditEvent, Membership, Role, User, Workspace
from webapp.core.errors import UserError

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]


@pytest.fixture
def anna(workspace: Workspace) -> User:
    """An admin of Alice's workspace."""
    user = User.objects.create_user("anna@example.org", "correct horse 4", name="Anna")
    Membership.objects.create(workspace=workspace, user=user, role=Role.ADMIN)
    return user


def role(workspace: Workspace, user: User) -> str | None:
    found = Membership.objects.filter(workspace=workspace, user=user).first()
    return found.role if found else None


def set_role(client: Client, workspace: Workspace, user: User, new: str) -> int:
    return client.post(f"/workspaces/{workspace.pk}/members/{user.pk}/role/", {"role": new}).status_code


def remove(client: Client, workspace: Workspace, user: User) -> int:
    return client.post(f"/workspaces/{workspace.pk}/members/{user.pk}/remove/").status_code


def test_an_owner_changes_roles(workspace: Workspace, alice: User, bob: User, logged_in: LogIn) -> None:
    client = logged_in(alice)
    for new in (Role.ADMIN, Role.OWNER, Role.MEMBER):
        assert set_role(client, workspace, bob, new) == 302
        assert role(workspace, bob) == new
    events = AuditEvent.objects.filter(action="role_changed", actor=alice, workspace=workspace)
    assert [e.detail["to"] for e in events.order_by("id")] == ["admin", "owner", "member"]


@pytest.mark.parametrize("new", ["god", "", "Owner"])
def test_a_role_that_does_not_exist_is_refused(
    workspace: Workspace, alice: User, bob: User, logged_in: LogIn, new: str
) -> None:
    assert set_role(logged_in(alice), workspace, bob, new) == 400
    assert role(workspace, bob) == Role.MEMBER


def test_an_admin_manages_members_but_neither_makes_nor_touches_owners(
    workspace: Workspace, alice: User, anna: User, bob: User, logged_in: LogIn
) -> None:
    client = logged_in(anna)
    assert set_role(client, workspace, bob, "owner") == 403
    assert set_role(client, workspace, anna, "owner") == 403
    assert set_role(client, workspace, alice, "member") == 403
    assert remove(client, workspace, alice) == 403
    assert set_role(client, workspace, bob, "admin") == 302
    assert (role(workspace, alice), role(workspace, anna), role(workspace, bob)) == (
        "owner",
        "admin",
        "admin",
    )
    assert remove(client, workspace, bob) == 302
    assert role(workspace, bob) is None


def test_the_last_owner_can_neither_leave_nor_be_demoted(
    workspace: Workspace, alice: User, bob: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    assert set_role(client, workspace, alice, "member") == 409
    assert remove(client, workspace, alice) == 409
    answer = client.post(f"/workspaces/{workspace.pk}/leave/")
    assert answer.status_code == 409
    assert "always has an owner" in answer.content.decode()
    set_role(client, workspace, bob, "owner")
    assert client.post(f"/workspaces/{workspace.pk}/leave/").status_code == 302
    assert (role(workspace, alice), role(workspace, bob)) == (None, "owner")


@pytest.mark.django_db(transaction=True)
def test_two_owners_who_demote_each_other_at_once_leave_one(
    workspace: Workspace, alice: User, bob: User
) -> None:
    services.change_role(actor=alice, workspace_id=workspace.pk, user_id=bob.pk, role="owner")
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def demote(actor: User, target: User) -> None:
        try:
            barrier.wait(10)
            services.change_role(actor=actor, workspace_id=workspace.pk, user_id=target.pk, role="member")
            outcomes.append("done")
        except UserError as error:
            outcomes.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=demote, args=pair) for pair in ((alice, bob), (bob, alice))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == sorted(["done", "not_allowed"]) or sorted(outcomes) == ["admins_only", "done"]
    assert Membership.objects.filter(workspace=workspace, role=Role.OWNER).count() == 1


def test_a_person_in_two_workspaces_switches_and_each_login_remembers_its_own(
    workspace: Workspace, elsewhere: Workspace, bob: User, logged_in: LogIn
) -> None:
    Membership.objects.create(workspace=elsewhere, user=bob, role=Role.MEMBER)
    laptop, phone = logged_in(bob), logged_in(bob)
    answer = laptop.post("/workspaces/switch/", {"workspace": elsewhere.pk, "next": "/settings/"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/settings/")
    assert "Elsewhere" in laptop.get("/settings/workspace/").content.decode()
    assert access.current_workspace(bob, laptop.session)[0] == elsewhere
    assert access.current_workspace(bob, phone.session)[0] == workspace


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_switching_never_leads_off_the_site(
    workspace: Workspace, bob: User, logged_in: LogIn, target: str
) -> None:
    answer = logged_in(bob).post("/workspaces/switch/", {"workspace": workspace.pk, "next": target})
    assert answer.headers["Location"] == "/"


def test_a_person_removed_from_their_current_workspace_falls_back_to_another(
    workspace: Workspace, elsewhere: Workspace, alice: User, bob: User, logged_in: LogIn
) -> None:
    Membership.objects.create(workspace=elsewhere, user=bob, role=Role.MEMBER)
    client = logged_in(bob)
    client.post("/workspaces/switch/", {"workspace": workspace.pk})
    services.remove_member(actor=alice, workspace_id=workspace.pk, user_id=bob.pk)
    page = client.get("/settings/workspace/").content.decode()
    assert "Elsewhere" in page
    assert "Acme" not in page


def test_a_person_in_no_workspace_is_led_to_making_one(charlie: User, logged_in: LogIn) -> None:
    client = logged_in(charlie)
    answer = client.get("/settings/workspace/")
    assert answer.headers["Location"] == "/workspaces/new/"
    assert client.get("/settings/").status_code == 200
    client.post("/workspaces/new/", {"name": "Charlie & co"})
    assert "Charlie &amp; co" in client.get("/settings/workspace/").content.decode()


def test_a_program_in_no_workspace_is_told_so_in_json(charlie: User, logged_in: LogIn) -> None:
    answer = logged_in(charlie).get("/settings/workspace/", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_workspace")


@pytest.mark.parametrize("name", ["", "   ", "x" * 81, "a\x1bb"])
def test_a_workspace_needs_a_name_that_can_be_shown(
    workspace: Workspace, alice: User, logged_in: LogIn, name: str
) -> None:
    client = logged_in(alice)
    assert client.post(f"/workspaces/{workspace.pk}/rename/", {"name": name}).status_code == 400
    assert client.post("/workspaces/new/", {"name": name}).status_code == 400
    assert [w.name for w in Workspace.objects.all()] == ["Acme"]


def test_renaming_is_seen_by_all_and_recorded(
    workspace: Workspace, alice: User, bob: User, logged_in: LogIn
) -> None:
    logged_in(alice).post(f"/workspaces/{workspace.pk}/rename/", {"name": " Acme  <b>Two</b> "})
    assert "Acme &lt;b&gt;Two&lt;/b&gt;" in logged_in(bob).get("/settings/workspace/").content.decode()
    event = AuditEvent.objects.get(action="workspace_renamed")
    assert event.detail == {"from": "Acme", "to": "Acme <b>Two</b>"}


def test_nobody_owns_workspaces_without_end(workspace: Workspace, alice: User, logged_in: LogIn) -> None:
    client = logged_in(alice)
    codes = [client.post("/workspaces/new/", {"name": f"No {n}"}).status_code for n in range(20)]
    assert codes[-1] == 400
    assert Workspace.objects.count() == services.MAX_WORKSPACES_OWNED


def test_the_audit_log_shows_admins_what_happened_newest_first_in_pages(
    workspace: Workspace, elsewhere: Workspace, alice: User, bob: User, charlie: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    for n in range(60):
        services.rename_workspace(actor=alice, workspace_id=workspace.pk, name=f"Acme {n}")
    services.rename_workspace(actor=charlie, workspace_id=elsewhere.pk, name="Not to be seen")
    set_role(client, workspace, bob, "admin")
    first = client.get("/settings/workspace/audit/").content.decode()
    assert "Changed a role: Bob" in first
    assert first.index("Changed a role") < first.index("Renamed the workspace")
    assert "Charlie" not in first
    assert "Page 1 of 2" in first
    second = client.get("/settings/workspace/audit/?page=2").content.decode()
    assert "Changed a role" not in second
    assert client.get("/settings/workspace/audit/?page=nonsense").status_code == 200


def test_members_logins_are_in_the_log_from_when_they_joined(
    workspace: Workspace, alice: User, bob: User, charlie: User, logged_in: LogIn
) -> None:
    logged_in(charlie)
    Membership.objects.create(workspace=workspace, user=charlie, role=Role.MEMBER)
    logged_in(bob)
    page = logged_in(alice).get("/settings/workspace/audit/").content.decode()
    rows = [row for row in page.split("<tr>") if "Logged in" in row]
    assert any("Bob" in row for row in rows)
    assert not any("Charlie" in row for row in rows)
