"""Every write to chat bubbles on customers' sites: the widgets admins make, and what visitors say in them.

A visitor is nobody: no account, no cookie, only a token that their browser keeps, which opens one conversation of one
widget.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from inference import services as inference
from inference.models import Generation, ServedModel
from inference.parameters import SamplingParams
from webapp.accounts import limits
from webapp.accounts.access import require_admin
from webapp.accounts.audit import record_audit
from webapp.accounts.models import User, Workspace
from webapp.api.models import Widget, WidgetMessage, WidgetSession
from webapp.chat.services import clean_text
from webapp.core import clock
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

MAX_WIDGETS, MAX_ORIGINS = 50, 20
MAX_CHARACTERS = 4_000  # of a visitor's message
_MAX_TURNS = 100  # of a conversation: then a new one is begun
_MAX_TOKENS = 512  # of an answer
_PARAMS = SamplingParams(max_tokens=_MAX_TOKENS)
_KEPT = timedelta(days=30)
_FORGET_AT_ONCE = 500  # conversations
_COLOUR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?|\[[0-9a-f:]+\](:\d{1,5})?")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What admins choose of a widget."""

    name: str
    origins: tuple[str, ...]
    model: ServedModel | None
    instructions: str
    greeting: str
    theme: str
    accent: str
    messages_per_hour: int
    messages_per_day: int
    is_active: bool


def clean_origin(text: str) -> str:
    """ "https://shop.example" of what was typed: a site's address without a path. Raises UserError `bad_origin`."""
    parts = urlsplit(text.strip().lower())
    is_plain = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not is_plain or not _HOST.fullmatch(parts.netloc):
        raise UserError(
            "bad_origin",
            _("“%(text)s” is not a site's address, such as https://shop.example or https://*.shop.example.")
            % {"text": text.strip()[:100]},
            param="origins",
        )
    return f"{parts.scheme}://{parts.netloc}"


def create_widget(
    *, user: User, workspace: Workspace, look: Look, request: HttpRequest | None = None
) -> Widget:
    """Raises NotFound, and UserError `admins_only`, `too_many_widgets`, and what `_checked` does."""
    with transaction.atomic():
        require_admin(user, workspace.pk)
        lock_until_commit(f"widgets.{workspace.pk}")
        if Widget.objects.filter(workspace=workspace).count() >= MAX_WIDGETS:
            raise UserError(
                "too_many_widgets",
                _("This workspace has %(limit)s widgets, the most.") % {"limit": MAX_WIDGETS},
            )
        widget = Widget.objects.create(workspace=workspace, created_by=user, **_checked(look))
        _record("widget_created", widget, user, request)
    return widget


def update_widget(*, user: User, widget: Widget, look: Look, request: HttpRequest | None = None) -> Widget:
    with transaction.atomic():
        require_admin(user, widget.workspace_id)
        for name, value in _checked(look).items():
            setattr(widget, name, value)
        widget.save()
        _record("widget_changed", widget, user, request)
    return widget


def delete_widget(*, user: User, widget: Widget, request: HttpRequest | None = None) -> None:
    """With all that visitors said in it."""
    with transaction.atomic():
        require_admin(user, widget.workspace_id)
        _forget(list(WidgetSession.objects.filter(widget=widget).values_list("pk", flat=True)))
        _record("widget_deleted", widget, user, request)
        widget.delete()


def _checked(look: Look) -> dict[str, object]:
    name = " ".join(look.name.split())
    if not name or len(name) > 80 or not name.isprintable():
        raise UserError("bad_name", _("A widget needs a name of 1 to 80 letters."), param="name")
    origins = list(dict.fromkeys(clean_origin(origin) for origin in look.origins if origin.strip()))
    if not 1 <= len(origins) <= MAX_ORIGINS:
        raise UserError(
            "bad_origin",
            _("Name 1 to %(most)s sites that may show it.") % {"most": MAX_ORIGINS},
            param="origins",
        )
    if look.accent and not _COLOUR.fullmatch(look.accent):
        raise UserError("bad_colour", _("A colour is written as #1f6feb."), param="accent")
    for limit in (look.messages_per_hour, look.messages_per_day):
        if not 1 <= limit <= 1_000_000:
            raise UserError("bad_limit", _("A limit is a number from 1 to 1,000,000."))
    return {
        "name": name,
        "origins": origins,
        "model": look.model,
        "instructions": clean_text(look.instructions)[:4_000].strip(),
        "greeting": " ".join(clean_text(look.greeting).split())[:300],
        "theme": look.theme if look.theme in ("auto", "light", "dark") else "auto",
        "accent": look.accent.lower(),
        "messages_per_hour": look.messages_per_hour,
        "messages_per_day": look.messages_per_day,
        "is_active": look.is_active,
    }


def _record(action: str, widget: Widget, user: User, request: HttpRequest | None) -> None:
    record_audit(
        action=action,
        actor=user,
        workspace=widget.workspace,
        request=request,
        detail={"widget": str(widget.pk), "name": widget.name},
    )


# --- visitors ---------------------------------------------------------------------------------------------------


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def begin_session(*, widget: Widget) -> tuple[WidgetSession, str]:
    """A visitor's conversation and the token that opens it."""
    token = secrets.token_urlsafe(32)
    session = WidgetSession.objects.create(
        widget=widget, token_hash=token_hash(token), seen_at=timezone.now()
    )
    return session, token


class Asked(NamedTuple):
    message: WidgetMessage
    reply: WidgetMessage
    generation: Generation


@transaction.atomic
def ask(*, session: WidgetSession, text: str) -> Asked:
    """Stores what a visitor wrote and starts the answer.

    Raises UserError `message_empty`, `message_too_long`, `still_answering`, `conversation_full`, `visitor_limit`,
    `widget_limit` (429), and what `limits.admit` and `start_generation` do.
    """
    text = clean_text(text).strip()
    if not text:
        raise UserError("message_empty", _("Write something first."))
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            "message_too_long", _("That is more than %(most)s characters.") % {"most": f"{MAX_CHARACTERS:,}"}
        )
    widget = session.widget
    # All visitors of a widget are counted one after the other.
    lock_until_commit(f"widget.{widget.pk}")
    turns = list(session.messages.select_related("generation").order_by("position"))
    if turns and turns[-1].generation is not None and not turns[-1].generation.is_finished:
        raise UserError("still_answering", _("Wait for the answer first."), status=409)
    if len(turns) >= _MAX_TURNS:
        raise UserError("conversation_full", _("This conversation is long enough. Begin a new one."))
    _check_limits(session)
    prompt = _conversation(widget, turns, text)
    generation = inference.start_generation(
        workspace=widget.workspace,
        model=_model_of(widget),
        messages=prompt,
        params=_PARAMS,
        purpose="widget",
    )
    message = WidgetMessage(session=session, position=len(turns), text=text)
    reply = WidgetMessage(session=session, position=len(turns) + 1, generation=generation)
    WidgetMessage.objects.bulk_create([message, reply])
    WidgetSession.objects.filter(pk=session.pk).update(seen_at=timezone.now())
    limits.admit(
        workspace_id=widget.workspace_id,
        user_id=None,
        api_key_id=None,
        tokens=limits.estimate_tokens((turn["content"] for turn in prompt), _MAX_TOKENS),
        slot=generation.pk,
    )
    return Asked(message, reply, generation)


def stop(*, session: WidgetSession) -> None:
    """Ends the answer that is being written, if there is one."""
    last = (
        session.messages.select_related("generation").exclude(generation=None).order_by("-position").first()
    )
    if last is not None and last.generation is not None:
        with transaction.atomic():
            inference.cancel_generation(generation_id=last.generation.pk)


def sweep() -> None:
    """Forgets conversations that nobody came back to for a month."""
    if (now := clock.deletion_time()) is None:
        return
    left = WidgetSession.objects.filter(seen_at__lt=now - _KEPT).values_list("pk", flat=True)
    while sessions := list(left[:_FORGET_AT_ONCE]):
        with transaction.atomic():
            _forget(sessions)


def _forget(sessions: list[UUID]) -> None:
    of_them = WidgetMessage.objects.filter(session__in=sessions).exclude(generation=None)
    generations = [id_ for id_ in of_them.values_list("generation_id", flat=True) if id_ is not None]
    WidgetSession.objects.filter(pk__in=sessions).delete()
    inference.delete_generations(ids=generations)


def _check_limits(session: WidgetSession) -> None:
    widget, now = session.widget, timezone.now()
    said = WidgetMessage.objects.filter(generation=None)
    if (
        said.filter(session=session, created_at__gt=now - timedelta(hours=1)).count()
        >= widget.messages_per_hour
    ):
        raise UserError(
            "visitor_limit",
            _("You have asked a lot in the last hour. Come back a little later."),
            status=429,
            retry_after=600,
        )
    of_all = said.filter(session__widget=widget, created_at__gt=now - timedelta(days=1))
    if of_all.count() >= widget.messages_per_day:
        raise UserError(
            "widget_limit",
            _("This chat has answered all it may today. Come back tomorrow."),
            status=429,
            retry_after=3600,
        )


def _model_of(widget: Widget) -> ServedModel:
    if widget.model is not None and widget.model.removed_at is None and widget.model.is_served:
        return widget.model
    return inference.default_model()


def _conversation(widget: Widget, turns: list[WidgetMessage], text: str) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": widget.instructions}] if widget.instructions else []
    for turn in turns:
        content = turn.text if turn.generation is None else turn.generation.text
        if content:
            messages.append({"role": "user" if turn.generation is None else "assistant", "content": content})
    return [*messages, {"role": "user", "content": text}]
