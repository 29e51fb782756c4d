"""Programs that talk to a live site with a person's key: OpenAI's own client, and plain HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai

from tests.live_site import LiveSite
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import Membership, Role, Scope, User, Workspace

_keys: dict[tuple[str, str], str] = {}


def key_of(site: LiveSite, email: str = "alice@example.org") -> str:
    """A key for the person's first workspace, with every scope they may have: the same one for all tests."""
    if (site.base_url, email) not in _keys:
        # Apart, since asynchronous tests ask for it, too, and Django would use no database beside their loop.
        with ThreadPoolExecutor(1) as apart:
            _keys[site.base_url, email] = apart.submit(new_key, site, email).result()
    return _keys[site.base_url, email]


def new_key(site: LiveSite, email: str = "alice@example.org", *scopes: str) -> str:
    """One of a test's own, to be revoked or with few scopes."""
    with site.rows():
        membership = Membership.objects.filter(user__email=email).order_by("created_at")[0]
        allowed = Scope.values if membership.is_admin else [Scope.CHAT.value]
        _key, token = create_key(
            user=membership.user, workspace=membership.workspace, name="test", scopes=list(scopes or allowed)
        )
    return token


def workspace_of(site: LiveSite, email: str = "alice@example.org") -> Workspace:
    """The one that a key of `key_of` is for. Call it with the site's rows at hand."""
    return Membership.objects.filter(user__email=email).order_by("created_at")[0].workspace


def outsider(site: LiveSite) -> str:
    """The key of somebody with a workspace of their own."""
    email = "dora@example.org"
    with site.rows():
        if not User.objects.filter(email=email).exists():
            person = User.objects.create_user(email, None, name="Dora")
            workspace = Workspace.objects.create(name="Elsewhere")
            Membership.objects.create(workspace=workspace, user=person, role=Role.OWNER)
    return key_of(site, email)


def openai_client(site: LiveSite, key: str) -> openai.OpenAI:
    # Over plain HTTP nobody has to be trusted; to read who could be takes 25 ms.
    http_client = openai.DefaultHttpxClient(verify=site.tls or False)
    return openai.OpenAI(
        base_url=f"{site.base_url}/v1", api_key=key, max_retries=0, timeout=60, http_client=http_client
    )


def async_openai_client(site: LiveSite, key: str) -> openai.AsyncOpenAI:
    http_client = openai.DefaultAsyncHttpxClient(verify=site.tls or False)
    return openai.AsyncOpenAI(
        base_url=f"{site.base_url}/v1", api_key=key, max_retries=0, timeout=60, http_client=http_client
    )


def http_client(site: LiveSite, key: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"{site.base_url}/v1",
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
        verify=site.tls or False,
    )
