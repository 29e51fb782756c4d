"""The page of API keys: who has which, a new one, shown once, and revoking."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from webapp.accounts import access, api_keys
from webapp.accounts.key_forms import KeyForm
from webapp.accounts.models import ApiKey, Membership, Scope
from webapp.accounts.requests import person
from webapp.core.errors import UserError

# What a new key is tried with: an address it may ask.
_TRY = {
    Scope.CHAT: "/v1/models",
    Scope.FILES: "/v1/files",
    Scope.TRAINING: "/v1/fine_tuning/jobs",
    Scope.ADMIN: "/v1/api_keys",
}


@login_required
@require_GET
def keys(request: HttpRequest) -> HttpResponse:
    _workspace, mine = access.current_workspace(person(request), request.session)
    return _page(request, mine)


def _page(request: HttpRequest, mine: Membership, *, status: int = 200, **extra: object) -> HttpResponse:
    now = timezone.now()
    found = list(access.list_keys(mine))
    context: dict[str, object] = {
        "workspace": mine.workspace,
        "mine": mine,
        "keys": [key for key in found if key.is_open(now)],
        "closed_keys": [key for key in found if not key.is_open(now)],
        "form": KeyForm(actor=mine),
        "tab": "keys",
        "base_url": request.build_absolute_uri("/v1"),
    }
    return render(request, "accounts/keys.html", context | extra, status=status)


@never_cache
@login_required
@require_POST
def create(request: HttpRequest, workspace_id: uuid.UUID) -> HttpResponse:
    user = person(request)
    mine = access.get_membership(user, workspace_id)
    form = KeyForm(request.POST, actor=mine)
    if not form.is_valid():
        return _page(request, mine, status=400, form=form)
    try:
        key, token = api_keys.create_key(
            user=user,
            workspace=mine.workspace,
            name=form.cleaned_data["name"],
            scopes=form.cleaned_data["scopes"],
            expires_at=form.expires_at,
            request=request,
        )
    except UserError as error:
        form.add_error(None, error.message)
        return _page(request, mine, status=error.status, form=form)
    # Shown in the answer itself, not after a redirect: it must not be kept anywhere to be shown later.
    return _page(request, mine, new_key=key, new_token=token, curl=_curl(request, key, token))


def _curl(request: HttpRequest, key: ApiKey, token: str) -> str:
    address = request.build_absolute_uri(_TRY[Scope(key.scopes[0])])
    return f'curl {address} -H "Authorization: Bearer {token}"'


@login_required
@require_POST
def revoke(request: HttpRequest, workspace_id: uuid.UUID, key_id: uuid.UUID) -> HttpResponse:
    user = person(request)
    key = access.get_key(access.get_membership(user, workspace_id), key_id)
    api_keys.revoke_key(key=key, by=user, request=request)
    messages.success(request, _("Revoked. “%(name)s” opens nothing any more.") % {"name": key.name})
    return redirect("keys")
