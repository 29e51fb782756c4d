"""The page of usage and its CSV: admins see the workspace's, members their own."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from webapp.accounts.access import current_workspace
from webapp.accounts.requests import person
from webapp.api.usage_access import list_usage
from webapp.api.usage_csv import csv_lines
from webapp.api.usage_page import usage_context
from webapp.api.usage_range import Range, asked_range


@never_cache
@login_required
@require_GET
def usage(request: HttpRequest) -> HttpResponse:
    workspace, mine = current_workspace(person(request), request.session)
    context = {"workspace": workspace, "mine": mine, "section": "usage", "tab": "usage"}
    shown = usage_context(mine, _asked(request), timezone.now().date())
    return render(request, "usage/usage.html", shown | context)


@never_cache
@login_required
@require_GET
def usage_csv(request: HttpRequest) -> StreamingHttpResponse:
    _workspace, mine = current_workspace(person(request), request.session)
    shown = _asked(request)
    name = f"usage-{shown.first}-{shown.last}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    days = list_usage(mine, shown.first, shown.last)
    return StreamingHttpResponse(csv_lines(days), content_type="text/csv; charset=utf-8", headers=headers)


def _asked(request: HttpRequest) -> Range:
    return asked_range(request.GET.get("range", ""), timezone.now().date())
