"""From DATABASE_URL to Django's DATABASES entry, with the options each server needs. Knows no model of ours."""

from __future__ import annotations

from typing import Any

import dj_database_url

from webapp.env import SettingsError


def configuration(url: str) -> dict[str, Any]:
    """Raises SettingsError where the URL cannot be understood."""
    try:
        parsed: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError as error:
        # The URL may hold a password: it is not repeated.
        raise SettingsError(f"DATABASE_URL cannot be understood: {type(error).__name__}.") from None
    options = parsed.setdefault("OPTIONS", {})
    if parsed["ENGINE"] == "django.db.backends.sqlite3":
        # Writers queue up instead of failing halfway: IMMEDIATE takes the write lock at BEGIN, WAL lets readers go on.
        options["transaction_mode"] = "IMMEDIATE"
        options["timeout"] = 5
        options["init_command"] = (
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;"
        )
        # Tests use a file too: an in-memory database has locks of its own, which nobody waits for.
        parsed["TEST"] = {"NAME": f"{parsed['NAME']}.test"}
    else:
        options.setdefault("pool", {"min_size": 0, "max_size": 16, "timeout": 10})
        # Statements by hand are prepared (webapp/core/sql.py).
        options.setdefault("prepare_threshold", 2)
        # With a pool that gives out none that the server has hung up on.
        parsed["ENGINE"] = "webapp.postgresql"
    # Connections kept by request threads would leak on PostgreSQL under ASGI: there the pool keeps them. A SQLite
    # connection is a file handle that ends with its thread, and opening one costs as much as several queries.
    parsed["CONN_MAX_AGE"] = None if parsed["ENGINE"] == "django.db.backends.sqlite3" else 0
    # SQLite in memory would be another database in every process.
    if parsed.get("NAME") in (None, "", ":memory:"):
        raise SettingsError(
            "DATABASE_URL names no database: end it with /name, or sqlite:////path/of/a/file."
        )
    return parsed
