"""Small checks on requests that several views share. Knows nothing of what the views do."""

from __future__ import annotations

from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from webapp.accounts.models import User
from webapp.core.errors import NotFound


def person(request: HttpRequest) -> User:
    """The logged-in person. Views behind `login_required` call this to tell type checkers so."""
    user = request.user
    if not isinstance(user, User):
        raise NotFound
    return user


def posted(request: HttpRequest) -> QueryDict | None:
    """The form's data, also when it is empty; None where the page is only being looked at."""
    return request.POST if request.method == "POST" else None


def page_number(request: HttpRequest) -> int:
    """Which page of a long list is asked for, from 1."""
    asked = request.GET.get("page", "")
    return max(1, int(asked)) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 1


def next_url(request: HttpRequest, default: str) -> str:
    """Where the form asked to go next, if that is on this site; else the page named `default`."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    if url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure()):
        return wanted
    return reverse(default)
