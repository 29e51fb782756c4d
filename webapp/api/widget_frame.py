"""What a visitor's browser asks: the frame with the chat, and what is said in it. Cookies mean nothing here.

GET  /widget/ID/                the page that a customer's site shows in a frame; only its origins may
POST /widget/ID/sessions        a conversation, and the token that opens it (sent as "Authorization: Visitor TOKEN")
GET  /widget/ID/messages        what was said
POST /widget/ID/messages        says something; answers with events of the reply
GET  /widget/ID/reply?after=N   the events of the reply that is being written, from behind the Nth
POST /widget/ID/stop            ends it
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.staticfiles import finders
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from inference.follow import follow
from inference.models import Generation
from inference.stream import TERMINAL_TYPES
from webapp.accounts.audit import client_ip
from webapp.api import widget_services as services
from webapp.api.models import WidgetMessage, WidgetSession
from webapp.api.widget_access import session_of, shown_widget
from webapp.chat.markdown import render as markdown
from webapp.core.errors import UserError

# Conversations one address may begin in an hour: an office has one address, and a script could ask for thousands.
SESSIONS_PER_HOUR = 30
_KEEP_ALIVE_SECONDS = 15.0


@require_GET
def script(request: HttpRequest) -> HttpResponse:
    """What customers' pages load, under an address that stays."""
    path = finders.find("flywheel/js/widget.js")
    assert isinstance(path, str)
    response = HttpResponse(Path(path).read_bytes(), content_type="text/javascript; charset=utf-8")
    response.headers["Cache-Control"] = "public, max-age=3600"
    # Sites that isolate themselves load nothing that does not say it may be loaded.
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


@xframe_options_exempt
@require_GET
def frame(request: HttpRequest, widget_id: uuid.UUID) -> HttpResponse:
    widget = shown_widget(widget_id)
    context = {
        "widget": widget,
        "strings": {
            "failed": _("That did not work. Try again in a moment."),
            "stopped": _("Stopped."),
            "thinking": _("Writing…"),
        },
        "most": services.MAX_CHARACTERS,
    }
    response = render(request, "api/widget_frame.html", context)
    response._csp_replace = {"frame-ancestors": list(widget.origins)}  # type: ignore[attr-defined]
    return response


@csrf_exempt
@require_POST
def sessions(request: HttpRequest, widget_id: uuid.UUID) -> HttpResponse:
    widget = shown_widget(widget_id)
    if _begun_from(request) > SESSIONS_PER_HOUR:
        raise UserError(
            "too_many_sessions",
            _("Too many conversations were begun from your network. Try again later."),
            status=429,
            retry_after=600,
        )
    session, token = services.begin_session(widget=widget)
    return JsonResponse({"token": token, "id": str(session.pk)}, status=201)


def _begun_from(request: HttpRequest) -> int:
    """Conversations of this hour, with the one that is asked for."""
    counter = f"widget.sessions.{client_ip(request)}"
    cache.add(counter, 0, 3600)
    try:
        return cache.incr(counter)
    except ValueError:  # the broker went or came between the two: the other count begins
        return 1


@csrf_exempt
@require_http_methods(["GET", "POST"])
async def messages(request: HttpRequest, widget_id: uuid.UUID) -> HttpResponseBase:
    if request.method == "GET":
        said = await sync_to_async(_said)(request, widget_id)
        return JsonResponse({"messages": said})
    text = _text_of(request)
    asked = await sync_to_async(lambda: services.ask(session=_session(request, widget_id), text=text))()
    return _events(asked.generation.pk, 0)


@require_GET
async def reply(request: HttpRequest, widget_id: uuid.UUID) -> HttpResponseBase:
    after = request.GET.get("after", "0")
    last = await sync_to_async(lambda: _last_reply(_session(request, widget_id)))()
    if last is None or last.generation_id is None:
        raise UserError("nothing_asked", _("Nothing has been asked yet."), status=409)
    return _events(
        last.generation_id, int(after) if after.isascii() and after.isdigit() and len(after) < 10 else 0
    )


@csrf_exempt
@require_POST
def stop(request: HttpRequest, widget_id: uuid.UUID) -> HttpResponse:
    services.stop(session=_session(request, widget_id))
    return HttpResponse(status=204)


def _session(request: HttpRequest, widget_id: uuid.UUID) -> WidgetSession:
    scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
    return session_of(shown_widget(widget_id), token if scheme == "Visitor" else "")


def _text_of(request: HttpRequest) -> str:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        body = None
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise UserError("bad_request", _("Send JSON: an object with the text."))
    return text


def _said(request: HttpRequest, widget_id: uuid.UUID) -> list[dict[str, Any]]:
    rows = _session(request, widget_id).messages.select_related("generation").order_by("position")
    return [_shown(message) for message in rows]


def _shown(message: WidgetMessage) -> dict[str, Any]:
    if message.generation is None:
        return {"role": "user", "text": message.text}
    done = message.generation.is_finished
    return {"role": "assistant", "html": markdown(message.generation.text) if done else "", "done": done}


def _last_reply(session: WidgetSession) -> WidgetMessage | None:
    return session.messages.exclude(generation=None).order_by("-position").first()


def _events(generation_id: uuid.UUID, after: int) -> StreamingHttpResponse:
    response = StreamingHttpResponse(_follow(generation_id, after), content_type="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    return response


async def _follow(generation_id: uuid.UUID, after: int) -> AsyncIterator[str]:
    """ "text" events add, "reset" ones replace, "done" brings the whole answer as HTML, "failed" a sentence."""
    events = follow(generation_id, after=after)
    waiting = asyncio.ensure_future(anext(events))
    try:
        while True:
            done, _pending = await asyncio.wait({waiting}, timeout=_KEEP_ALIVE_SECONDS)
            if not done:
                yield ": still here\n\n"
                continue
            event = waiting.result()
            if event.type in TERMINAL_TYPES:
                yield await sync_to_async(_end)(generation_id, event.seq)
                return
            if event.type in ("text", "reset"):
                yield _event(event.type, event.seq, {"text": event.data["text"]})
            waiting = asyncio.ensure_future(anext(events))
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]


def _end(generation_id: uuid.UUID, seq: int) -> str:
    generation = Generation.objects.filter(pk=generation_id).first()
    if generation is None or (generation.state in ("failed", "refused") and not generation.text):
        # What went wrong inside is the workspace's business, not a visitor's.
        return _event("failed", seq, {"message": _("That could not be answered. Try again in a moment.")})
    return _event("done", seq, {"html": markdown(generation.text), "state": generation.state})


def _event(kind: str, seq: int, data: dict[str, Any]) -> str:
    return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
