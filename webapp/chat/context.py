"""What every page's shell needs. Nothing is read from the database until a template asks for it."""

from __future__ import annotations

import zoneinfo
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext as _

from webapp.accounts import access as accounts
from webapp.accounts.models import Membership, Workspace
from webapp.chat import access
from webapp.chat.days import Group, group_by_day
from webapp.chat.services import MAX_MESSAGE_CHARACTERS

LIST_SIZE = 40
THEMES = ("light", "dark")


class Shell:
    """The rail's content, for a person who is logged in."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self.workspace: Workspace | None = None
        self.membership: Membership | None = None
        try:
            self.workspace, self.membership = accounts.current_workspace(request.user, request.session)
        except accounts.NoWorkspace:
            pass

    @property
    def workspaces(self) -> list[Workspace]:
        assert self._request.user.is_authenticated
        return list(accounts.list_workspaces(self._request.user))

    @property
    def conversations(self) -> dict[str, Any]:
        """The context of chat/list.html."""
        if self.workspace is None:
            return {"groups": [], "next": None}
        return list_page(self._request)

    @property
    def strings(self) -> dict[str, object]:
        return strings()


def shell(request: HttpRequest) -> dict[str, object]:
    theme = request.COOKIES.get("flywheel_theme", "")
    context: dict[str, object] = {
        "theme": theme if theme in THEMES else "",
        "rail_closed": request.COOKIES.get("flywheel_rail") == "closed",
    }
    if getattr(request, "user", None) is not None and request.user.is_authenticated:
        context["shell"] = SimpleLazyObject(lambda: Shell(request))
    return context


def list_page(request: HttpRequest, *, before: Any = None, query: str = "") -> dict[str, Any]:
    """One page of the person's conversations in their current workspace, as chat/list.html shows it."""
    assert request.user.is_authenticated
    workspace, _membership = accounts.current_workspace(request.user, request.session)
    found = access.list_conversations(
        request.user, workspace, before=before, limit=LIST_SIZE + 1, query=query
    )
    page = found[:LIST_SIZE]
    groups: list[Group] = []
    with timezone.override(reader_timezone(request)):
        groups = group_by_day(page)
    return {
        "groups": groups,
        "query": query,
        "is_first": before is None,
        "next": page[-1].updated_at.isoformat() if len(found) > LIST_SIZE else None,
    }


def reader_timezone(request: HttpRequest) -> zoneinfo.ZoneInfo:
    """The browser's time zone, which theme.js left in a cookie; UTC until then."""
    try:
        return zoneinfo.ZoneInfo(request.COOKIES.get("flywheel_timezone", "UTC"))
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return zoneinfo.ZoneInfo("UTC")


def strings() -> dict[str, object]:
    """The sentences scripts say, in the reader's language."""
    return {
        "maxCharacters": MAX_MESSAGE_CHARACTERS,
        "reconnecting": _("Reconnecting… Nothing is lost."),
        "tooLong": _(
            "This message has {count} characters; the most is {most}. Shorten it, or send it in parts."
        ),
        "answered": _("Answer finished."),
        "stopped": _("Answer stopped."),
        "failed": _("The answer failed."),
        "thinking": _("Waiting for the answer."),
        "copied": _("Copied"),
        "copyFailed": _("Your browser does not allow copying here. Select the text instead."),
        "loadFailed": _("That could not be loaded. Check your connection and try again."),
        "today": _("Today"),
        "matches": _("Conversations found: {count}"),
        "noMatches": _("Nothing found."),
        "untitled": _("New chat"),
        "siteName": "Flywheel",
    }
