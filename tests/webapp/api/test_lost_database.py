"""What a program is told while the database does not answer: to come back, not that something went wrong."""

from __future__ import annotations

import psycopg
import psycopg_pool
import pytest
from django.db import InterfaceError, OperationalError
from django.test import Client

from webapp.accounts import api_keys


def of_psycopg(cause: Exception, kind: type[Exception] = OperationalError) -> Exception:
    error = kind(str(cause))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
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
def test_a_database_that_does_not_answer_is_503_and_no_other_error_of_its_is(
    alices: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def find_key(token: str) -> None:
        raise error

    monkeypatch.setattr(api_keys, "find_key", find_key)
    for address in ("/v1/models", "/v1/files"):
        answer = alices.get(address)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)
        assert "terminating" not in answer.json()["error"]["message"]
