"""Who calls, once they were let in (`auth`). Apart from that, so that a worker which knows callers needs no ninja."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest

from webapp.accounts.models import ApiKey, Membership, User, Workspace


@dataclass(frozen=True)
class Caller:
    user: User
    workspace: Workspace
    membership: Membership
    key: ApiKey | None  # None: a page of the site, with its session


def caller(request: HttpRequest) -> Caller:
    """Who was let in. Only behind a route that needs something."""
    found = request.auth  # type: ignore[attr-defined]
    assert isinstance(found, Caller)
    return found
