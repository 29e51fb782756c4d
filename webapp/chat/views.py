"""The chat's pages and the fragments its scripts fetch. What changes anything goes over the socket instead."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.safestring import mark_safe
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from inference.access import models_for
from webapp.accounts import access as accounts
from webapp.accounts.requests import person
from webapp.chat import access
from webapp.chat.context import list_page
from webapp.chat.models import Conversation, Message
from webapp.chat.picker import picker
from webapp.chat.rendering import render_message
from webapp.chat.serving import note_on, obstacle, trouble_with
from webapp.core.errors import UserError

PAGE_SIZE = 50


@require_GET
@never_cache
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """A new conversation, not yet begun; `model` in the address chooses who it will be with."""
    try:
        workspace, _membership = accounts.current_workspace(person(request), request.session)
    except accounts.NoWorkspace:
        return redirect("workspace_new")
    examples = [
        (_("Explain"), _("Why is the sky blue, and red at sunset?")),
        (_("Write"), _("Write a short poem about the sea in winter.")),
        (_("Plan"), _("Give me three ideas for a quick vegetarian dinner.")),
        (_("Code"), _("Write a Python function that reverses a string.")),
    ]
    models = picker(list(models_for(workspace)), request.GET.get("model", ""))
    chosen = models.chosen
    context = {"conversation": None, "examples": examples, "picker": models}
    said = {"trouble": trouble_with(chosen), "note": note_on(chosen), "obstacle": obstacle(chosen)}
    return render(request, "chat/page.html", context | said)


@require_GET
@never_cache
@login_required
def conversation(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    found = access.get_conversation(person(request), conversation_id)
    model = access.get_chosen_model(found)
    context = {"conversation": found, "model": model, "obstacle": obstacle(model), **_messages(found, None)}
    trouble = trouble_with(model)
    said = {"trouble": trouble, "note": "" if trouble else note_on(model)}
    return render(request, "chat/page.html", context | said)


@require_GET
@never_cache
@login_required
def messages(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """Older messages, as a fragment: those before position `before`."""
    found = access.get_conversation(person(request), conversation_id)
    before = request.GET.get("before", "")
    if not (before.isascii() and before.isdigit() and len(before) < 10):
        raise _bad_address()
    return render(request, "chat/messages.html", {"conversation": found, **_messages(found, int(before))})


@require_GET
@never_cache
@login_required
def conversations(request: HttpRequest) -> HttpResponse:
    """A page of the conversation list, as a fragment: older ones, or those in which `q` is found."""
    before = None
    if given := request.GET.get("before"):
        try:
            before = datetime.fromisoformat(given)
            if before.tzinfo is None:
                raise _bad_address()
            before = before.astimezone(UTC)
        except (ValueError, OverflowError):  # the year 1 has no hour before its first
            raise _bad_address() from None
    query = request.GET.get("q", "").replace("\x00", "").strip()[:200]
    return render(request, "chat/list.html", list_page(request, before=before, query=query))


@require_GET
@never_cache
@login_required
def source(request: HttpRequest, message_id: UUID) -> HttpResponse:
    """A finished reply's text as the model wrote it: what copying an answer takes."""
    reply = access.get_reply(person(request), message_id)
    assert reply.generation is not None
    return HttpResponse(reply.generation.text, content_type="text/plain; charset=utf-8")


def _messages(found: Conversation, before: int | None) -> dict[str, Any]:
    page: list[Message] = access.list_messages(found, before_position=before, limit=PAGE_SIZE)
    html = "".join(render_message(message, found) for message in page)
    return {
        "messages_html": mark_safe(html),  # noqa: S308 - rendered by our own template
        "earlier": page[0].position if page and page[0].position > 0 else None,
    }


def _bad_address() -> UserError:
    return UserError("bad_address", _("This address is incomplete. Go back and follow the link again."))
