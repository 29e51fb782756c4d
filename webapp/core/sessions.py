"""Login sessions in the database, looked up only by what can be a session's key. Knows no model of ours."""

from __future__ import annotations

import re

from django.contrib.sessions.backends.db import SessionStore as DatabaseSessionStore

_KEY = re.compile(r"[a-z0-9]{8,40}")


class SessionStore(DatabaseSessionStore):
    def _validate_session_key(self, key: str | None) -> bool:
        # A quoted cookie may hold any character, NUL too, of which PostgreSQL makes an error instead of "not found".
        return key is not None and _KEY.fullmatch(key) is not None
