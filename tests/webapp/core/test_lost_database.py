"""What is said while the database does not answer: to come back, not that something went wrong."""

from __future__ import annotations

import psycopg
import psycopg_pool
import pytest
from django.db import InterfaceError, OperationalError
from django.test import Client

from tests.webapp.api.conftest import key_client
from webapp.accounts import api_keys
from webapp.accounts.models import User, Workspace


def of_psycopg(cause: Exception, kind: type[Exception] = OperationalError) -> Exception:
    error = kind(str(cause))
    error.__cause__ = cause
    return error


EACH_ERROR = pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (of_psycopg(psycopg.OperationalError("the connection is closed")), 503, "database_down"),
        (
            of_psycopg(psycopg.InterfaceError("connection already closed"), InterfaceError),
            503,
            "database_down",
        ),
        (of_psycopg(psycopg.errors.AdminShutdown("terminating connection")), 503, "database_down"),
        (of_psycopg(psycopg.errors.TooManyConnections("too many clients already")), 503, "database_down"),
        (of_psycopg(psycopg_pool.PoolTimeout("couldn't get a connection")), 503, "database_down"),
        (of_psycopg(psycopg.errors.QueryCanceled("statement timeout")), 500, "internal_error"),
        (OperationalError("no such table: nothing"), 500, "internal_error"),
    ],
    ids=lambda value: str(value) if isinstance(value, Exception) else "",
)


@EACH_ERROR
def test_programs_are_told_503_and_of_no_other_error(
    alice: User,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    code: str,
) -> None:
    client = key_client(alice, workspace)

    def find_key(token: str) -> None:
        raise error

    monkeypatch.setattr(api_keys, "find_key", find_key)
    for address in ("/v1/models", "/v1/files"):
        answer = client.get(address)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)
        assert "terminating" not in answer.json()["error"]["message"]


@EACH_ERROR
def test_people_read_it_on_a_page_that_asks_no_database(
    alice: User, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(alice)

    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", load)
    answer = client.get("/")
    assert answer.status_code == status
    assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)
    assert ("The database does not answer now" in answer.content.decode()) is (status == 503)
    assert "terminating" not in answer.content.decode()
