"""Who calls: the bearer of a key, or the person of a session cookie. Routes say what they need; nothing else lets in.

    router = Router(auth=Needs("files"))          # routes that are functions
    router = Router(auth=NeedsAsync("chat"))      # routes that are coroutines

In the route, `callers.caller(request)` is who it is. Reads and writes then go through the apps' own
access.py and services.py.
"""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja.security.base import AuthBase
from ninja.utils import check_csrf

from webapp.accounts import api_keys
from webapp.accounts.access import AdminsOnly, current_workspace
from webapp.accounts.models import Scope, User
from webapp.api.callers import Caller
from webapp.core.errors import UserError
from webapp.core.lost_database import drop_lost_connections


class Needs(AuthBase):
    """Lets in keys with this scope, and logged-in people. `admin` needs an owner or admin of the workspace besides, as
    do files and training: data is their business."""

    openapi_type = "http"
    openapi_scheme = "bearer"

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = Scope(scope)

    def __call__(self, request: HttpRequest) -> Caller:
        return self._let_in(request)

    def _let_in(self, request: HttpRequest) -> Caller:
        return _require(self.scope, _authenticated(request))


class NeedsAsync(Needs):
    def __init__(self, scope: str) -> None:
        super().__init__(scope)
        self._visit = sync_to_async(self._first_visit)

    async def __call__(self, request: HttpRequest) -> Caller:  # type: ignore[override]
        return await self._visit(request)

    def _first_visit(self, request: HttpRequest) -> Caller:
        # Of a request to the thread for the database, which keeps its connection.
        drop_lost_connections()
        return self._let_in(request)


def let_in_key(authorization: str, scope: Scope) -> Caller:
    """Who sent this Authorization header, where its key may do what `scope` is for. For whoever has no request yet.

    Raises UserError `invalid_api_key`, `expired_api_key`, `missing_scope`, `admins_only`.
    """
    return _require(scope, _bearer(authorization))


def _require(scope: Scope, found: Caller) -> Caller:
    if found.key is not None and scope not in found.key.scopes:
        raise UserError(
            "missing_scope",
            _("This key may not be used for that: it lacks the scope “%(scope)s”.") % {"scope": scope},
            status=403,
        )
    if scope != Scope.CHAT and not found.membership.is_admin:
        raise AdminsOnly
    return found


def _bearer(authorization: str) -> Caller:
    scheme, _space, token = authorization.partition(" ")
    key, membership = api_keys.find_key(token.strip() if scheme.lower() == "bearer" else "")
    return Caller(key.user, key.workspace, membership, key)


def _authenticated(request: HttpRequest) -> Caller:
    """Raises UserError `missing_api_key`, `invalid_api_key`, `expired_api_key`, `csrf_failed`, `no_workspace`."""
    given = request.headers.get("Authorization", "")
    if given:
        return _bearer(given)
    user = getattr(request, "user", None)
    if not isinstance(user, User):
        raise UserError("missing_api_key", _how_to_send(request), status=401)
    if check_csrf(request) is not None:
        raise UserError(
            "csrf_failed",
            _(
                "A page has to send its CSRF token with this, as X-CSRFToken. Programs send an API key instead."
            ),
            status=403,
        )
    workspace, membership = current_workspace(user, request.session)
    return Caller(user, workspace, membership, None)


def _how_to_send(request: HttpRequest) -> str:
    elsewhere = {"x-api-key", "api-key", "openai-api-key"} & {name.lower() for name in request.headers}
    if elsewhere or {"api_key", "key", "access_token"} & set(request.GET):
        return _(
            "The key is in the wrong place: send it as “Authorization: Bearer KEY”. What is in an address ends up "
            "in logs; revoke a key that was sent there."
        )
    return _("Send an API key as “Authorization: Bearer KEY”. Keys are made in the settings, under API keys.")
