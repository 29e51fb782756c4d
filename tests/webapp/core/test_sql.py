"""Statements by hand, as the server sees them."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection

from webapp.core import sql


@pytest.mark.django_db
def test_a_server_plans_a_statement_once_and_not_each_time() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite is a file, and nobody's server")
    for _ in range(4):
        assert sql.fetch("SELECT name FROM accounts_workspace WHERE id = %s", uuid4()) == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        prepared = [statement for (statement,) in cursor.fetchall()]
    assert "SELECT name FROM accounts_workspace WHERE id = $1" in prepared
