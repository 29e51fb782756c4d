"""What no browser sends: every address of the site, given what breaks parsers and databases. None answers 500."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from django.conf import settings as configured
from django.contrib.auth import SESSION_KEY
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from pytest_django.fixtures import Settings

from tests.webapp.site_routes import routes
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db(transaction=True)

# Every name our forms and allauth's read.
PARAMETERS = (
    *(
        "q",
        "before",
        "page",
        "next",
        "email",
        "login",
        "password",
        "password1",
        "oldpassword",
        "name",
        "role",
    ),
    *(
        "code",
        "workspace",
        "language",
        "user",
        "key",
        "id",
        "session",
        "credential",
        "authenticators",
        "remember",
    ),
    *("action", "action_add", "action_remove", "action_primary", "action_send", "process", "token", "state"),
)
# What a database may take otherwise than another: text that it cannot hold, numbers and times beyond its types.
NASTY = [
    "a\x00b@example.org",
    "9" * 5000,
    "0001-01-01T00:00:00+23:59",
    "a@" + "\u202e" * 300 + ".c",
]
# What breaks parsers, before any database is asked.
UNREADABLE = [
    '{"id": 1}',
    "[" * 5000,
    '{"response": [1]}',
    "/\r\nSet-Cookie: a=b",
    "http://[",
]
COOKIES = ["a\x00bcdefgh", "\ud800bcdefgh", "..", "a" * 4000, "Zoneinfo/../..", "[" * 2000]


@pytest.fixture(autouse=True)
def _unlimited(settings: Settings) -> None:
    # What the limits on attempts would hide is looked at too.
    settings.ACCOUNT_RATE_LIMITS = False
    # So that no page asks for the password again before it looks at what was sent.
    settings.ACCOUNT_REAUTHENTICATION_TIMEOUT = 3600


def alice_browser() -> Client:
    """Logged in with her password."""
    client = Client(raise_request_exception=False)
    client.post("/accounts/login/", {"login": "alice@example.org", "password": "correct horse 1"})
    assert client.get("/settings/").status_code == 200
    return client


def test_the_list_of_addresses_is_the_resolvers() -> None:
    names = {route.name for route in routes()}
    assert {"home", "messages", "setup", "account_login", "mfa_index", "/metrics"} <= names
    assert len(names) > 60


@pytest.mark.parametrize(
    "value",
    [*NASTY, *(pytest.param(value, marks=pytest.mark.one_database) for value in UNREADABLE)],
    ids=lambda value: repr(value[:20]),
)
def test_every_parameter_of_every_address_takes_every_nasty_value(
    workspace: Workspace, alice: User, value: str
) -> None:
    stranger, browser = Client(raise_request_exception=False), alice_browser()
    everywhere = dict.fromkeys(PARAMETERS, value)
    # Encoded once. Nobody need write a bracket as %5B, and thousands of them take longer to read than to answer.
    query, form = urlencode(everywhere, safe="["), encode_multipart(BOUNDARY, everywhere)
    broken = []
    for route in routes():
        answers = {
            "post as a stranger": stranger.generic("POST", route.path, form, MULTIPART_CONTENT),
            "get": browser.get(route.path, QUERY_STRING=query),
            "post": browser.generic("POST", route.path, form, MULTIPART_CONTENT),
        }
        if route.name != "/readyz":
            broken += [f"{how} {route.path}" for how, answer in answers.items() if answer.status_code >= 500]
        if SESSION_KEY not in browser.session:
            browser = alice_browser()
    assert not broken


def quoted(value: str) -> str:
    """As http.cookies reads it back: any character can be written as an octal escape."""
    octets = value.encode("utf-8", "surrogatepass")
    return '"' + "".join(f"\\{octet:03o}" for octet in octets) + '"'


@pytest.mark.parametrize("value", COOKIES)
def test_every_cookie_takes_every_nasty_value(workspace: Workspace, alice: User, value: str) -> None:
    names = [
        configured.SESSION_COOKIE_NAME,
        configured.CSRF_COOKIE_NAME,
        configured.LANGUAGE_COOKIE_NAME,
        "messages",
        "flywheel_timezone",
        "flywheel_theme",
    ]
    browser = alice_browser()
    own = f"{configured.SESSION_COOKIE_NAME}={browser.cookies[configured.SESSION_COOKIE_NAME].value}"
    for name in names:
        for cookies in (f"{name}={quoted(value)}", f"{own}; {name}={quoted(value)}"):
            client = Client(raise_request_exception=False, HTTP_COOKIE=cookies)
            for path in ("/", "/settings/", "/accounts/login/"):
                assert client.get(path).status_code < 500, (name, path)
            assert client.post("/accounts/login/", {"login": "a@b.c", "password": "x"}).status_code < 500
