"""Every address of accounts, asked by each of the cast: the owner, a member, an outsider and a stranger."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

import pytest
from allauth.mfa.models import Authenticator
from django.test import Client
from django.urls import get_resolver, reverse
from django.urls.resolvers import URLPattern

from webapp.accounts import api_keys, invitations, urls
from webapp.accounts.models import ApiKey, Invitation, Membership, User, Workspace

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]

# name: (only admins may, body)
WORKSPACE_ACTS: dict[str, tuple[bool, dict[str, str]]] = {
    "workspace_rename": (True, {"name": "Taken over"}),
    "workspace_leave": (False, {}),
    "member_role": (True, {"role": "member"}),
    "member_remove": (True, {}),
    "invite": (True, {"role": "member"}),
    "invitation_revoke": (True, {}),
    "key_create": (False, {"name": "shop", "scopes": "chat", "expiry": "never"}),
    "key_revoke": (False, {}),
}
PAGES = {"profile", "account_delete", "workspace_settings", "workspace_audit", "workspace_new", "keys"}
OTHERS = {"setup", "invitation", "workspace_switch", "set_language"}


@pytest.fixture
def open_invitation(workspace: Workspace, alice: User) -> Invitation:
    """And a key of Alice's."""
    api_keys.create_key(user=alice, workspace=workspace, name="shop", scopes=["chat"])
    return invitations.invite(actor=alice, workspace_id=workspace.pk, role="member")[0]


def address(name: str, workspace: Workspace, member: User, invitation: Invitation) -> str:
    parts = {"workspace_id": workspace.pk, "user_id": member.pk, "invitation_id": invitation.pk}
    parts["key_id"] = ApiKey.objects.get().pk
    pattern = next(p for p in urls.urlpatterns if p.name == name)
    return reverse(name, kwargs={key: parts[key] for key in pattern.pattern.converters})


def test_no_address_is_missing_from_this_matrix() -> None:
    assert {pattern.name for pattern in urls.urlpatterns} == set(WORKSPACE_ACTS) | PAGES | OTHERS


@pytest.mark.parametrize("name", WORKSPACE_ACTS)
def test_outsiders_and_strangers_cannot_touch_a_workspace(
    name: str,
    workspace: Workspace,
    elsewhere: Workspace,
    bob: User,
    charlie: User,
    open_invitation: Invitation,
    logged_in: LogIn,
) -> None:
    path = address(name, workspace, bob, open_invitation)
    before = snapshot()
    assert logged_in(charlie).post(path, WORKSPACE_ACTS[name][1]).status_code == 404
    answer = Client().post(path, WORKSPACE_ACTS[name][1])
    # To no address that cannot be looked at: this form stood nowhere.
    assert (answer.status_code, answer.headers["Location"]) == (302, "/accounts/login/?next=/")
    assert snapshot() == before


@pytest.mark.parametrize("name", [name for name, (admins, _body) in WORKSPACE_ACTS.items() if admins])
def test_members_cannot_do_what_admins_do(
    name: str, workspace: Workspace, alice: User, bob: User, open_invitation: Invitation, logged_in: LogIn
) -> None:
    before = snapshot()
    for target in (alice, bob):
        path = address(name, workspace, target, open_invitation)
        assert logged_in(bob).post(path, WORKSPACE_ACTS[name][1]).status_code == 403
    assert snapshot() == before


@pytest.mark.parametrize("name", WORKSPACE_ACTS)
def test_a_workspace_that_does_not_exist_answers_like_one_that_is_not_yours(
    name: str, workspace: Workspace, bob: User, alice: User, open_invitation: Invitation, logged_in: LogIn
) -> None:
    path = address(name, workspace, bob, open_invitation).replace(str(workspace.pk), str(uuid.uuid4()))
    assert logged_in(alice).post(path, WORKSPACE_ACTS[name][1]).status_code == 404


@pytest.mark.parametrize("name", WORKSPACE_ACTS)
def test_a_link_cannot_act(
    name: str, workspace: Workspace, bob: User, alice: User, open_invitation: Invitation, logged_in: LogIn
) -> None:
    assert logged_in(alice).get(address(name, workspace, bob, open_invitation)).status_code == 405


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_ask_strangers_to_log_in(name: str, alice: User) -> None:
    path = reverse(name)
    answer = Client().get(path)
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/accounts/login/?next={path}")


@pytest.mark.parametrize("name", sorted(PAGES))
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_pages_open_for_members(
    name: str, who: str, workspace: Workspace, request: pytest.FixtureRequest, logged_in: LogIn
) -> None:
    expected = 403 if (name, who) == ("workspace_audit", "bob") else 200
    assert logged_in(request.getfixturevalue(who)).get(reverse(name)).status_code == expected


def test_an_outsider_cannot_switch_to_a_workspace(
    workspace: Workspace, elsewhere: Workspace, charlie: User, logged_in: LogIn
) -> None:
    for wanted in (str(workspace.pk), str(uuid.uuid4()), "nonsense", ""):
        assert logged_in(charlie).post("/workspaces/switch/", {"workspace": wanted}).status_code == 404


def test_an_outsiders_pages_show_nothing_of_the_workspace(
    workspace: Workspace, elsewhere: Workspace, charlie: User, logged_in: LogIn
) -> None:
    client = logged_in(charlie)
    for path in ("/settings/", "/settings/workspace/", "/settings/workspace/audit/"):
        page = client.get(path).content.decode()
        assert "Acme" not in page
        assert "bob@example.org" not in page


def test_an_admin_of_one_workspace_cannot_reach_people_or_invitations_of_another(
    workspace: Workspace,
    elsewhere: Workspace,
    bob: User,
    charlie: User,
    open_invitation: Invitation,
    logged_in: LogIn,
) -> None:
    client = logged_in(charlie)
    for name in ("member_role", "member_remove", "invitation_revoke"):
        path = address(name, elsewhere, bob, open_invitation)
        assert client.post(path, {"role": "member"}).status_code == 404
    assert Invitation.objects.filter(pk=open_invitation.pk).exists()


@pytest.fixture
def everything(workspace: Workspace, alice: User) -> Client:
    """Alice's browser, just logged in with her password, so that nothing asks again."""
    client = Client()
    client.post("/accounts/login/", {"login": alice.email, "password": "correct horse 1"})
    client.post("/accounts/reauthenticate/", {"password": "correct horse 1"})
    return client


def allauth_pages() -> list[str]:
    paths = []
    for resolver in get_resolver().url_patterns:
        if str(getattr(resolver, "pattern", "")) == "accounts/":
            stack = [("accounts/", p) for p in resolver.url_patterns]  # type: ignore[union-attr]
            while stack:
                prefix, entry = stack.pop()
                route = prefix + str(entry.pattern)
                if isinstance(entry, URLPattern):
                    if "<" not in route and "(" not in route:
                        paths.append("/" + route)
                else:
                    stack.extend((route, p) for p in entry.url_patterns)
    return sorted(paths)


INLINE = re.compile(
    r"<style|\sstyle=|<script(?![^>]*(?:\ssrc=|type=\"application/json\"))|\son[a-z]+=\"|javascript:"
)


def test_every_page_of_allauth_opens_in_our_look_and_without_inline_code(everything: Client) -> None:
    seen = set()
    for path in allauth_pages():
        for client in (everything, Client()):
            answer = client.get(path)
            assert answer.status_code in (200, 301, 302, 401, 403, 404, 405), path
            if answer.status_code == 200 and "html" in answer.headers["Content-Type"]:
                page = answer.content.decode()
                assert "flywheel/css/base.css" in page, path
                assert not INLINE.search(page), (path, INLINE.search(page))
                assert "Sign In" not in page, path
                seen.add(path)
    assert {"/accounts/login/", "/accounts/signup/", "/accounts/2fa/", "/accounts/2fa/totp/activate/"} <= seen
    assert {"/accounts/2fa/webauthn/add/", "/accounts/sessions/", "/accounts/email/"} <= seen


def test_our_pages_have_no_inline_code(everything: Client, open_invitation: Invitation) -> None:
    for name in PAGES:
        assert not INLINE.search(everything.get(reverse(name)).content.decode()), name
    assert not Authenticator.objects.exists()


def snapshot() -> list[object]:
    return [
        sorted(Workspace.objects.values_list("pk", "name")),
        sorted(Membership.objects.values_list("workspace", "user", "role")),
        sorted(Invitation.objects.values_list("pk", "accepted_at")),
        sorted(ApiKey.objects.values_list("pk", "revoked_at")),
    ]
