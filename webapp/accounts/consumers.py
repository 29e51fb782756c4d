"""The base of every websocket: logged-in people only, rechecked on each command. Knows nothing of chat."""

from __future__ import annotations

import json
import logging
import uuid
from time import monotonic
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.utils import timezone, translation
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _

from webapp.accounts.access import NoWorkspace, current_workspace
from webapp.accounts.frame_limits import FrameLimit
from webapp.accounts.models import User
from webapp.accounts.presence import arrive, leave
from webapp.accounts.sockets import session_group, user_group
from webapp.core import sql
from webapp.core.errors import UserError
from webapp.core.outages import outage
from webapp.core.request_ids import current_request_id, on_behalf_of, request_id_for
from webapp.core.sessions import SessionStore

logger = logging.getLogger(__name__)

CLOSE_LOGGED_OUT = 4401
CLOSE_TOO_MANY_FRAMES = 4429
MAX_FRAME_BYTES = 1_200_000
# With the number of a command behind it, it is a request id as any other.
_LONGEST_CONNECTION_ID = 100


class _Handshake:
    """What `get_language_from_request` looks at, taken from a socket's opening request."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.COOKIES = scope.get("cookies", {})
        self.META = {
            "HTTP_ACCEPT_LANGUAGE": next(
                (v.decode("latin1") for k, v in scope["headers"] if k == b"accept-language"), ""
            )
        }
        self.path_info = scope["path"]


class AuthenticatedConsumer(AsyncWebsocketConsumer):
    """A socket of one person in one workspace, opened with one login session.

    Subclasses override `connected` (the socket is open), `work` and `answer` (the two halves of a command, one JSON
    object with a "type") and `disconnect`, and answer with `send_frame`. A UserError raised in a command is answered
    with an `error` frame. When the login or the membership ends, the socket is closed with 4401.
    """

    user: User
    session_key: str
    workspace_id: uuid.UUID  # the one they were in when the socket was opened

    connection_id = ""  # the beginning of its commands' request ids
    commands = 0
    present = False  # counted among the person's sockets

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.present:
                leave(self.user.pk)

    async def connect(self) -> None:
        self.limit = FrameLimit(monotonic())
        self.closing = False
        given = next((v.decode("latin1") for k, v in self.scope["headers"] if k == b"x-request-id"), "")
        self.connection_id = request_id_for(given[:_LONGEST_CONNECTION_ID])
        await self.accept()
        user = self.scope["user"]
        session_key = self.scope["session"].session_key
        translation.activate(translation.get_language_from_request(_Handshake(self.scope)))  # type: ignore[arg-type]
        if not user.is_authenticated or session_key is None:
            await self.session_closed({})
            return
        self.user, self.session_key = user, session_key
        presence = arrive(user.pk)
        if presence is None:
            await self._error(
                "too_many_sockets", _("You have this site open too many times. Close some of its tabs.")
            )
            await self._close(CLOSE_TOO_MANY_FRAMES)
            return
        self.present, self.limit = True, presence.limit
        # Join first, check after: a logout between the two is seen by one or the other.
        self.groups = [session_group(session_key), user_group(self.user.pk)]
        for group in self.groups:
            await self.channel_layer.group_add(group, self.channel_name)
        if await self._find_workspace():
            self._forget_handshake()
            await self.connected()
        else:
            await self.session_closed({})

    async def connected(self) -> None:
        """The socket is open and the person known."""

    def work(self, frame: dict[str, Any]) -> Any:
        """What a command reads and writes: on the database's thread, straight after the recheck and never without it.

        A subclass hands here what it does not know.
        """
        raise UserError("bad_frame", _("This page sent something the server does not know. Reload the page."))

    async def answer(self, frame: dict[str, Any], done: Any) -> None:
        """Tells the page what came of a command, given what `work` returned."""

    async def send_frame(self, frame: dict[str, Any]) -> None:
        """Send one JSON object, unless the socket is closing."""
        if self.closing:
            return
        try:
            await self.send(text_data=json.dumps(frame, ensure_ascii=False, separators=(",", ":")))
        except OSError:
            # The browser has gone; the server's disconnect message is on its way.
            self.closing = True

    # --- What the channel layer and the server call ---------------------------------------------------------
    async def dispatch(self, message: dict[str, Any]) -> None:
        # Before Channels touches the database: a flood must cost next to nothing.
        if message["type"] == "websocket.receive":
            verdict = "drop" if self.closing else self.limit.judge(monotonic())
            if verdict == "warn":
                await self._error(
                    "too_many_frames",
                    _("This page is sending too fast; some of it was not handled. Wait a moment."),
                )
            elif verdict == "close":
                await self._close(CLOSE_TOO_MANY_FRAMES)
            if verdict != "ok":
                return
        await super().dispatch(message)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.commands += 1
        with on_behalf_of(f"{self.connection_id}.{self.commands}"):
            await self._obey(text_data)

    async def _obey(self, text_data: str | None) -> None:
        frame: dict[str, Any] = {}
        try:
            frame = parse_frame(text_data)
            holds, done = await self._recheck_and_work(frame)
            if holds:
                await self.answer(frame, done)
            else:
                await self.session_closed({})
        except UserError as error:
            await self._error(error.code, error.message, frame)
        except Exception as error:
            logger.exception("A socket's command failed", extra={"command": frame.get("type")})
            known = outage(error) or UserError(
                "internal", _("Something went wrong on the server. Try again in a moment.")
            )
            await self._error(known.code, known.message, frame)

    async def session_closed(self, message: dict[str, Any]) -> None:
        """The login ended, or (with `workspace`) the membership in that workspace did."""
        workspace = message.get("workspace")
        if workspace is not None and workspace != self.workspace_id.hex:
            return
        await self.send_frame({"type": "closing", "reason": "logged_out"})
        await self._close(CLOSE_LOGGED_OUT)

    def _forget_handshake(self) -> None:
        """A socket lives for hours; what only its opening needed goes, in place, since each middleware has a copy of
        the scope."""
        self.scope["headers"].clear()
        self.scope["user"]._wrapped = self.user

    async def _close(self, code: int) -> None:
        if not self.closing:
            self.closing = True
            await self.close(code)

    async def _error(self, code: str, message: str, frame: dict[str, Any] | None = None) -> None:
        known = frame or {}
        about = {key: known[key] for key in ("client_id", "ref") if isinstance(known.get(key), str)}
        if code == "internal":
            about["request_id"] = current_request_id()
        await self.send_frame({"type": "error", "code": code, "message": message, **about})

    @database_sync_to_async
    def _find_workspace(self) -> bool:
        try:
            self.workspace_id = current_workspace(self.user, self.scope["session"])[0].pk
        except NoWorkspace:
            return False
        return self.recheck()

    @database_sync_to_async
    def _recheck_and_work(self, frame: dict[str, Any]) -> tuple[bool, Any]:
        # One visit to the database's thread: each costs a command the better part of a millisecond.
        return (True, self.work(frame)) if self.recheck() else (False, None)

    def recheck(self) -> bool:
        """Whether the login session, the person and the membership still hold, read from the database now."""
        found = sql.instances(
            User,
            "SELECT {columns}, session_data FROM accounts_user"
            " JOIN accounts_membership ON accounts_membership.user_id = accounts_user.id"
            " JOIN django_session ON session_key = %s AND expire_date > %s"
            " WHERE accounts_user.id = %s AND workspace_id = %s AND is_active",
            self.session_key,
            timezone.now(),
            self.user.pk,
            self.workspace_id,
        )
        if not found:
            return False
        self.user = found[0]
        session = SessionStore().decode(self.user.__dict__.pop("session_data"))
        if session.get(SESSION_KEY) != str(self.user.pk):
            return False
        if session.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
            return False
        return constant_time_compare(session.get(HASH_SESSION_KEY, ""), self.user.get_session_auth_hash())


def parse_frame(text: str | None) -> dict[str, Any]:
    """The JSON object in a text frame. Raises UserError("bad_frame" or "frame_too_long")."""
    if text is None:
        raise UserError("bad_frame", _("Binary frames are not understood here. Send JSON as text."))
    if len(text) * 4 > MAX_FRAME_BYTES and len(text.encode("utf-8", "replace")) > MAX_FRAME_BYTES:
        raise UserError(
            "frame_too_long",
            _("That is more than %(limit)s MB in one message. Shorten it, or send it in parts.")
            % {"limit": MAX_FRAME_BYTES / 1e6},
        )
    try:
        frame = json.loads(text)
        # "\ud800" is legal JSON, and no database or socket can store or send what it stands for.
        if "\\u" in text:
            json.dumps(frame, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise UserError("bad_frame", _("This page sent something that is not valid JSON. Reload the page."))
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise UserError("bad_frame", _("This page sent something the server does not know. Reload the page."))
    return frame
