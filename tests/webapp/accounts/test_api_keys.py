"""API keys on their page and from a shell: who makes which, that one is shown once, and what ends it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from inference.models import Generation, ServedModel
from webapp.accounts import api_keys, services
from webapp.accounts.api_keys import create_key, find_key
from webapp.accounts.erasure import erase_user
from webapp.accounts.models import ApiKey, AuditEvent, Membership, Role, Scope, User, Workspace
from webapp.core.errors import UserError

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]
TOKEN = re.compile(r"fw-[A-Za-z0-9]{8}-[A-Za-z0-9_-]{43}")


def make(client: Client, workspace: Workspace, **changes: object) -> tuple[int, str]:
    form = {"name": "shop", "scopes": ["chat"], "expiry": "90", **changes}
    answer = client.post(f"/workspaces/{workspace.pk}/keys/", form)
    return answer.status_code, answer.content.decode()


def opens(token: str) -> str:
    """What a program with this key is told: "ok", or the error's code."""
    answer = Client().get("/v1/models", headers={"Authorization": f"Bearer {token}"})
    return "ok" if answer.status_code == 200 else str(answer.json()["error"]["code"])


def page(client: Client) -> str:
    return client.get("/settings/workspace/keys/").content.decode()


def test_a_new_key_is_shown_once_with_a_command_to_try_it_and_then_opens_the_api(
    workspace: Workspace, alice: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    status, made = make(client, workspace, name="  shop   assistant ", scopes=["chat", "files"])
    assert status == 200
    tokens = set(TOKEN.findall(made))
    assert len(tokens) == 1
    token = tokens.pop()
    assert f"curl http://testserver/v1/models -H &quot;Authorization: Bearer {token}&quot;" in made
    assert opens(token) == "ok"
    listed = page(client)
    assert token not in listed
    assert token[:11] in listed
    key = ApiKey.objects.get()
    assert (key.name, key.scopes, key.user) == ("shop assistant", ["chat", "files"], alice)
    assert token not in str(ApiKey.objects.values())
    assert key.expires_at is not None
    assert timedelta(days=89) < key.expires_at - timezone.now() < timedelta(days=91)
    assert AuditEvent.objects.get(action="key_created").detail == {"prefix": token[:11]}


def test_the_page_that_shows_a_key_is_kept_nowhere(
    workspace: Workspace, alice: User, logged_in: LogIn
) -> None:
    answer = logged_in(alice).post(
        f"/workspaces/{workspace.pk}/keys/", {"name": "shop", "scopes": "chat", "expiry": "never"}
    )
    assert "no-store" in answer.headers["Cache-Control"]
    assert ApiKey.objects.get().expires_at is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a\x1bb"},
        {"name": "x" * 81},
        {"scopes": []},
        {"scopes": ["god"]},
        {"expiry": "7"},
    ],
)
def test_a_form_with_something_wrong_makes_no_key_and_says_what(
    workspace: Workspace, alice: User, logged_in: LogIn, wrong: dict[str, object]
) -> None:
    status, answer = make(logged_in(alice), workspace, **wrong)
    assert status == 400
    assert "field-error" in answer
    assert not ApiKey.objects.exists()


def test_members_make_keys_that_chat_and_no_others(workspace: Workspace, bob: User, logged_in: LogIn) -> None:
    client = logged_in(bob)
    assert 'value="files"' not in page(client)
    assert make(client, workspace, scopes=["chat", "files"])[0] == 400
    assert make(client, workspace)[0] == 200
    assert ApiKey.objects.get().scopes == ["chat"]


def test_admins_see_and_revoke_everybodys_keys_and_members_only_their_own(
    workspace: Workspace, elsewhere: Workspace, alice: User, bob: User, charlie: User, logged_in: LogIn
) -> None:
    of_alice, _token = create_key(user=alice, workspace=workspace, name="of Alice", scopes=["chat"])
    of_bob, bobs_token = create_key(user=bob, workspace=workspace, name="of Bob", scopes=["chat"])
    create_key(user=charlie, workspace=elsewhere, name="of Charlie", scopes=["chat"])
    everybodys, bobs = page(logged_in(alice)), page(logged_in(bob))
    assert ("of Alice" in everybodys, "of Bob" in everybodys, "of Charlie" in everybodys) == (
        True,
        True,
        False,
    )
    assert ("of Alice" in bobs, "of Bob" in bobs) == (False, True)
    revoke = "/workspaces/{}/keys/{}/revoke/"
    assert logged_in(bob).post(revoke.format(workspace.pk, of_alice.pk)).status_code == 404
    assert logged_in(charlie).post(revoke.format(elsewhere.pk, of_alice.pk)).status_code == 404
    assert opens(bobs_token) == "ok"
    assert logged_in(alice).post(revoke.format(workspace.pk, of_bob.pk)).status_code == 302
    assert opens(bobs_token) == "invalid_api_key"
    # Twice is no error, and no second entry in the log.
    assert logged_in(bob).post(revoke.format(workspace.pk, of_bob.pk)).status_code == 302
    assert AuditEvent.objects.filter(action="key_revoked").count() == 1
    assert "revoked or" in page(logged_in(bob))


def test_a_key_stops_when_it_expires(workspace: Workspace, alice: User) -> None:
    key, token = create_key(
        user=alice,
        workspace=workspace,
        name="k",
        scopes=["chat"],
        expires_at=timezone.now() + timedelta(days=1),
    )
    assert opens(token) == "ok"
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert opens(token) == "expired_api_key"


def test_keys_stop_with_the_membership_and_stay_stopped_when_the_person_comes_back(
    workspace: Workspace, alice: User, bob: User, logged_in: LogIn
) -> None:
    _key, token = create_key(user=bob, workspace=workspace, name="k", scopes=["chat"])
    own = Workspace.objects.create(name="Bob's own")
    Membership.objects.create(workspace=own, user=bob, role=Role.OWNER)
    _other, elsewhere = create_key(user=bob, workspace=own, name="k", scopes=["chat"])
    logged_in(alice).post(f"/workspaces/{workspace.pk}/members/{bob.pk}/remove/")
    assert (opens(token), opens(elsewhere)) == ("invalid_api_key", "ok")
    Membership.objects.create(workspace=workspace, user=bob, role=Role.MEMBER)
    assert opens(token) == "invalid_api_key"
    _again, again = create_key(user=bob, workspace=workspace, name="k", scopes=["chat"])
    services.leave_workspace(user=bob, workspace_id=workspace.pk)
    assert opens(again) == "invalid_api_key"


def test_keys_of_a_person_who_is_inactive_or_erased_open_nothing(
    workspace: Workspace, alice: User, bob: User
) -> None:
    _key, token = create_key(user=bob, workspace=workspace, name="k", scopes=["chat"])
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert opens(token) == "invalid_api_key"
    User.objects.filter(pk=bob.pk).update(is_active=True)
    assert opens(token) == "ok"
    report = {line.what: line.count for line in erase_user(user=bob)}
    assert report["API keys"] == 1
    assert opens(token) == "invalid_api_key"


def test_a_demoted_admins_key_does_what_members_do(workspace: Workspace, alice: User, bob: User) -> None:
    membership = Membership.objects.get(workspace=workspace, user=bob)
    Membership.objects.filter(pk=membership.pk).update(role=Role.ADMIN)
    _key, token = create_key(user=bob, workspace=workspace, name="k", scopes=["chat", "admin"])
    headers = {"Authorization": f"Bearer {token}"}
    assert Client().get("/v1/api_keys", headers=headers).status_code == 200
    services.change_role(actor=alice, workspace_id=workspace.pk, user_id=bob.pk, role="member")
    answer = Client().get("/v1/api_keys", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admins_only")
    assert opens(token) == "ok"


@pytest.mark.django_db(transaction=True)
def test_what_a_key_has_running_is_cancelled_with_it(
    workspace: Workspace, alice: User, logged_in: LogIn
) -> None:
    model = ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=100, parameters=1, size_bytes=1,
    )  # fmt: skip
    key, _token = create_key(user=alice, workspace=workspace, name="k", scopes=["chat"])
    other, _token = create_key(user=alice, workspace=workspace, name="k", scopes=["chat"])
    now = timezone.now()

    def generation(state: str, api_key: ApiKey | None) -> Generation:
        return Generation.objects.create(
            workspace=workspace, model=model, seed=1, deadline=now, sent_at=now, state=state, api_key=api_key
        )

    waiting, running = generation("queued", key), generation("running", key)
    kept = [generation("running", other), generation("running", None), generation("complete", key)]
    logged_in(alice).post(f"/workspaces/{workspace.pk}/keys/{key.pk}/revoke/")
    waiting.refresh_from_db()
    running.refresh_from_db()
    assert waiting.state == "cancelled"
    assert running.cancel_requested
    assert not Generation.objects.filter(pk__in=[one.pk for one in kept], cancel_requested=True).exists()


def test_a_key_was_last_used_to_the_minute(workspace: Workspace, alice: User, logged_in: LogIn) -> None:
    key, token = create_key(user=alice, workspace=workspace, name="k", scopes=["chat"])
    assert "never used" in page(logged_in(alice))
    assert opens(token) == "ok"
    key.refresh_from_db()
    first = key.last_used_at
    assert first is not None
    opens(token)
    key.refresh_from_db()
    assert key.last_used_at == first
    ApiKey.objects.update(last_used_at=first - timedelta(minutes=2))
    opens(token)
    key.refresh_from_db()
    assert key.last_used_at is not None
    assert key.last_used_at >= first
    assert "just now" in page(logged_in(alice))


def test_a_workspace_has_only_so_many_keys_that_open_something(
    workspace: Workspace, alice: User, logged_in: LogIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "MAX_KEYS", 2)
    client = logged_in(alice)
    assert [make(client, workspace)[0] for _ in range(3)] == [200, 200, 400]
    assert "Revoke one that is not used" in make(client, workspace)[1]
    ApiKey.objects.filter(pk=ApiKey.objects.first().pk).update(expires_at=timezone.now())  # type: ignore[union-attr]
    assert make(client, workspace)[0] == 200


def test_a_key_is_made_in_the_workspace_whose_page_it_was_whatever_the_session_says_now(
    workspace: Workspace, elsewhere: Workspace, bob: User, logged_in: LogIn
) -> None:
    Membership.objects.create(workspace=elsewhere, user=bob, role=Role.MEMBER)
    client = logged_in(bob)
    client.post("/workspaces/switch/", {"workspace": elsewhere.pk})
    make(client, workspace)
    assert ApiKey.objects.get().workspace == workspace


# --- createkey -----------------------------------------------------------------------------------------------
def createkey(*arguments: str) -> str:
    out = io.StringIO()
    call_command("createkey", *arguments, stdout=out)
    return out.getvalue()


def test_createkey_prints_a_key_alone_that_may_do_everything(workspace: Workspace, alice: User) -> None:
    printed = createkey("--email", "Alice@Example.org")
    assert TOKEN.fullmatch(printed.removesuffix("\n"))
    key, membership = find_key(printed.strip())
    assert (key.scopes, key.expires_at, membership.workspace) == (Scope.values, None, workspace)


def test_createkey_takes_a_workspace_scopes_a_name_and_an_end(
    workspace: Workspace, elsewhere: Workspace, bob: User
) -> None:
    Membership.objects.create(workspace=elsewhere, user=bob, role=Role.ADMIN)
    for wanted in ("Elsewhere", str(elsewhere.pk)):
        token = createkey(
            *("--email", bob.email, "--workspace", wanted, "--scopes", "files, chat"),
            *("--name", "import", "--expires-days", "7"),
        )
        key, membership = find_key(token.strip())
        assert (key.name, key.scopes, membership.workspace) == ("import", ["chat", "files"], elsewhere)
        assert key.expires_at is not None
        assert timedelta(days=6) < key.expires_at - timezone.now() < timedelta(days=8)


def test_createkey_gives_a_member_what_a_member_may_have(workspace: Workspace, bob: User) -> None:
    assert find_key(createkey("--email", bob.email).strip()).key.scopes == ["chat"]
    with pytest.raises(CommandError, match="Only owners and admins"):
        createkey("--email", bob.email, "--scopes", "files")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--email", "nobody@example.org"], "Nobody here has the address"),
        (["--email", "alice@example.org", "--workspace", "Acme GmbH"], "Theirs: 'Acme'"),
        (["--email", "alice@example.org", "--scopes", "god"], "one of these scopes: chat, files, training"),
        (["--email", "alice@example.org", "--expires-days", "0"], "a number from 1"),
        (["--email", "alice@example.org", "--expires-days", "99999999"], "a number from 1"),
        (["--email", "alice@example.org", "--name", " "], "needs a name"),
    ],
)
def test_createkey_says_what_is_wrong_and_makes_nothing(
    workspace: Workspace, alice: User, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(CommandError, match=sentence):
        createkey(*arguments)
    assert not ApiKey.objects.exists()


def test_createkey_asks_which_of_two_workspaces_of_the_same_name(workspace: Workspace, alice: User) -> None:
    twin = Workspace.objects.create(name="Acme")
    Membership.objects.create(workspace=twin, user=alice, role=Role.OWNER)
    with pytest.raises(CommandError, match="Give an id"):
        createkey("--email", alice.email, "--workspace", "Acme")


def test_createkey_makes_none_for_who_is_inactive_or_nowhere(workspace: Workspace, charlie: User) -> None:
    with pytest.raises(CommandError, match="not in a workspace"):
        createkey("--email", charlie.email)
    User.objects.update(is_active=False)
    with pytest.raises(CommandError, match="not active"):
        createkey("--email", charlie.email)


def test_a_key_that_another_makes_can_do_no_more_and_lasts_no_longer(
    workspace: Workspace, alice: User
) -> None:
    now = timezone.now()
    through, _token = create_key(
        user=alice,
        workspace=workspace,
        name="k",
        scopes=["chat", "admin"],
        expires_at=now + timedelta(days=1),
    )

    def code(scopes: list[str], days: int | None) -> str:
        expires_at = None if days is None else now + timedelta(days=days)
        try:
            create_key(
                user=alice,
                workspace=workspace,
                name="k",
                scopes=scopes,
                expires_at=expires_at,
                through=through,
            )
        except UserError as error:
            return error.code
        return "ok"

    assert code(["chat"], 1) == "ok"
    assert code(["chat", "files"], 1) == "bad_scopes"
    assert code(["chat"], None) == "bad_expiry"
    assert code(["chat"], 2) == "bad_expiry"
