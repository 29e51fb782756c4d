"""Pages of limits, for owners and admins: all of them with what is used, and a form for each."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from webapp.accounts.access import AdminsOnly, current_workspace
from webapp.accounts.limit_rules import set_limits
from webapp.accounts.limits import site_limits
from webapp.accounts.models import Membership
from webapp.accounts.requests import person, posted
from webapp.api.limit_forms import LimitsForm
from webapp.api.limit_page import Row, find_row, key_rows, member_rows, workspace_row


def _admin(request: HttpRequest) -> Membership:
    _workspace, mine = current_workspace(person(request), request.session)
    if not mine.is_admin:
        raise AdminsOnly
    return mine


@never_cache
@login_required
@require_GET
def limits(request: HttpRequest) -> HttpResponse:
    mine = _admin(request)
    context = {
        "workspace": mine.workspace,
        "section": "usage",
        "tab": "limits",
        "whole": [workspace_row(mine)],
        "members": member_rows(mine),
        "keys": key_rows(mine),
        "site": site_limits(),
    }
    return render(request, "usage/limits.html", context)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def of_workspace(request: HttpRequest) -> HttpResponse:
    mine = _admin(request)
    return _form(request, mine, workspace_row(mine))


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def of_member(request: HttpRequest, user_id: UUID) -> HttpResponse:
    mine = _admin(request)
    return _form(request, mine, find_row(member_rows(mine), str(user_id), _("That member")))


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def of_key(request: HttpRequest, key_id: UUID) -> HttpResponse:
    mine = _admin(request)
    return _form(request, mine, find_row(key_rows(mine), str(key_id), _("That key")))


def _form(request: HttpRequest, mine: Membership, row: Row) -> HttpResponse:
    form = LimitsForm(posted(request), initial=asdict(row.limits))
    if request.method == "POST" and form.is_valid():
        set_limits(
            actor=mine.user,
            workspace_id=mine.workspace_id,
            user_id=row.id if row.kind == "user" else None,
            api_key_id=row.id if row.kind == "key" else None,
            limits=form.limits,
            request=request,
        )
        messages.success(request, _("Saved. It holds within a few seconds."))
        return redirect("limits")
    context = {
        "section": "usage",
        "tab": "limits",
        "row": row,
        "form": form,
        "fields": [(form[cell.name], cell) for cell in row.cells],
    }
    return render(request, "usage/limit.html", context, status=400 if form.errors else 200)
