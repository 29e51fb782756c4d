"""Pages of the site call the API with their session: only their own, and in the workspace they show."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.test import Client

from tests.webapp.api.conftest import Page, key_client
from webapp.accounts import services
from webapp.accounts.models import ApiKey, Membership, Role, User, Workspace

KEYS = "/v1/api_keys"
JSON = "application/json"


def make(client: Client, **headers: str) -> tuple[int, str]:
    answer = client.post(KEYS, {"name": "k"}, content_type=JSON, headers=headers)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def test_a_page_reads_and_with_its_token_writes(alice_on_a_page: Page) -> None:
    assert alice_on_a_page.get(KEYS).json()["data"] == []
    assert make(alice_on_a_page) == (200, "")
    key = ApiKey.objects.get()
    assert alice_on_a_page.delete(f"{KEYS}/{key.pk}").status_code == 200


@pytest.mark.parametrize("token", [None, "", "f" * 32, "f" * 64])
def test_without_the_token_of_our_own_pages_nothing_is_written(
    alice: User, workspace: Workspace, alice_on_a_page: Page, token: str | None
) -> None:
    """A form on another site sends the cookie too."""
    program = key_client(alice, workspace)
    key = ApiKey.objects.get()
    del alice_on_a_page.defaults["HTTP_X_CSRFTOKEN"]
    headers = {} if token is None else {"X-CSRFToken": token}
    assert make(alice_on_a_page, **headers) == (403, "csrf_failed")
    assert alice_on_a_page.delete(f"{KEYS}/{key.pk}", headers=headers).status_code == 403
    assert ApiKey.objects.filter(revoked_at=None).count() == 1
    assert program.get("/v1/models").status_code == 200


def test_the_token_of_a_page_of_another_site_does_not_help(alice_on_a_page: Page) -> None:
    assert make(alice_on_a_page, Origin="https://elsewhere.example") == (403, "csrf_failed")
    assert make(alice_on_a_page, Origin="http://testserver") == (200, "")


def test_programs_need_no_token_whatever_cookies_come_along(alice_on_a_page: Page, alices: Client) -> None:
    alices.cookies = alice_on_a_page.cookies
    alices.handler.enforce_csrf_checks = True
    assert make(alices) == (200, "")


def test_a_key_that_is_none_is_not_made_good_by_a_session(alice_on_a_page: Page) -> None:
    assert make(alice_on_a_page, Authorization="Bearer nonsense") == (401, "invalid_api_key")
    assert make(alice_on_a_page, Authorization="Basic YTpi") == (401, "invalid_api_key")


def test_who_logged_out_or_is_inactive_is_nobody(alice: User, alice_on_a_page: Page) -> None:
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert alice_on_a_page.get(KEYS).status_code == 401
    User.objects.filter(pk=alice.pk).update(is_active=True)
    assert alice_on_a_page.get(KEYS).status_code == 200
    session = alice_on_a_page.cookies[settings.SESSION_COOKIE_NAME].value
    Client.logout(alice_on_a_page)
    alice_on_a_page.cookies[settings.SESSION_COOKIE_NAME] = session
    assert alice_on_a_page.get(KEYS).status_code == 401


def test_a_member_on_a_page_may_do_what_members_do(bob: User, workspace: Workspace) -> None:
    page = Page(bob)
    assert page.get("/v1/models").status_code == 200
    assert make(page) == (403, "admins_only")


def test_a_person_in_several_workspaces_calls_in_the_one_their_session_is_in(
    alice: User, workspace: Workspace, elsewhere: Workspace, alice_on_a_page: Page
) -> None:
    Membership.objects.create(workspace=elsewhere, user=alice, role=Role.ADMIN)
    make(alice_on_a_page)
    session = alice_on_a_page.session
    services.switch_workspace(user=alice, session=session, workspace_id=elsewhere.pk)
    session.save()
    assert alice_on_a_page.get(KEYS).json()["data"] == []
    make(alice_on_a_page)
    assert sorted(ApiKey.objects.values_list("workspace__name", flat=True)) == ["Acme", "Elsewhere"]
    # Another login of the same person is where it was, and so is a key.
    assert Page(alice).get(KEYS).json()["data"][0]["id"] == str(ApiKey.objects.get(workspace=workspace).pk)
    # Whoever is removed from the workspace they were in goes on in another.
    Membership.objects.filter(workspace=elsewhere, user=alice).delete()
    found = alice_on_a_page.get(KEYS).json()["data"]
    assert [key["id"] for key in found] == [str(ApiKey.objects.get(workspace=workspace).pk)]


def test_a_person_in_no_workspace_is_told_so(charlie: User, workspace: Workspace) -> None:
    answer = Page(charlie).get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_workspace")
