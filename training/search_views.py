"""Pages of searches and cross-validations: one as it goes on, and what a person does with it."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from training import access, search_services
from training.search_page import search_context
from webapp.accounts.requests import person
from webapp.core.errors import NotFound, UserError


@never_cache
@login_required
@require_GET
def search(request: HttpRequest, search_id: UUID) -> HttpResponse:
    found = access.get_search(person(request), search_id)
    return render(request, "training/search.html", search_context(found) | {"section": "jobs"})


@never_cache
@login_required
@require_GET
def search_now(request: HttpRequest, search_id: UUID) -> HttpResponse:
    """What changes of the page alone, while it goes on."""
    found = access.get_search(person(request), search_id)
    return render(request, "training/search_now.html", search_context(found))


@login_required
@require_POST
def cancel(request: HttpRequest, search_id: UUID) -> HttpResponse:
    user = person(request)
    found = access.get_search(user, search_id)
    try:
        search_services.cancel_search(search=found, user=user, request=request)
    except NotFound:
        raise
    except UserError as error:
        messages.error(request, error.message)
    return redirect("search", found.pk)


@login_required
@require_POST
def delete(request: HttpRequest, search_id: UUID) -> HttpResponse:
    user = person(request)
    found = access.get_search(user, search_id)
    search_services.delete_search(search=found, user=user, request=request)
    messages.success(request, _("%(name)s is deleted.") % {"name": found.name})
    return redirect("jobs")
