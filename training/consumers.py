"""The websocket of a job's page: watch one, and hear of each change as the HTML of what is now another.

The channel layer only says that something changed; what is sent is read from the rows, for whoever may see them then.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from django.utils.translation import gettext as _

from training import access
from training.job_notify import job_group
from training.job_page import parts
from webapp.accounts.consumers import AuthenticatedConsumer
from webapp.core.errors import NotFound, UserError

logger = logging.getLogger(__name__)
EVERY = 0.5  # seconds between two frames at least, however often a job changes


class JobConsumer(AuthenticatedConsumer):
    """One open page of one job."""

    next: asyncio.Task[None] | None = None  # what will show a change soon

    async def connected(self) -> None:
        self.watched: UUID | None = None
        self.shown: dict[str, str] = {}  # what the page has, by part
        self.sent_at = 0.0

    async def disconnect(self, code: int) -> None:
        if self.next is not None:
            self.next.cancel()

    def work(self, frame: dict[str, Any]) -> Any:
        if frame["type"] == "ping":
            return None
        if frame["type"] == "watch":
            return access.get_job(self.user, _job_id(frame)).id
        return super().work(frame)

    async def answer(self, frame: dict[str, Any], done: Any) -> None:
        if frame["type"] == "ping":
            await self.send_frame({"type": "pong"})
            return
        if self.watched is not None:
            await self._leave()
        self.watched, self.shown = done, {}
        # Join first, read after: a change between the two is seen by one or the other.
        await self._join(done)
        await self._show()

    async def job_changed(self, message: dict[str, Any]) -> None:
        if self.watched is None or message["job"] != str(self.watched) or self.next is not None:
            return
        self.next = asyncio.create_task(self._show_soon())

    async def _show_soon(self) -> None:
        await asyncio.sleep(max(self.sent_at + EVERY - monotonic(), 0))
        self.next = None  # what changes while this is read is shown by the next
        try:
            await self._show()
        except Exception:
            logger.exception("A page was not told of a change of job %s", self.watched)

    async def _show(self) -> None:
        if self.watched is None or self.closing:
            return
        self.sent_at = monotonic()
        job_id = self.watched
        holds, html = await self._read(job_id)
        if not holds:
            await self.session_closed({})
        elif job_id != self.watched:
            return  # another is watched by now
        elif html is None:
            await self._leave()
            await self.send_frame({"type": "gone", "job": str(job_id)})
        else:
            changed = {name: part for name, part in html.items() if self.shown.get(name) != part}
            self.shown |= changed
            if changed:
                await self.send_frame({"type": "job", "job": str(job_id), "html": changed})

    @database_sync_to_async
    def _read(self, job_id: UUID) -> tuple[bool, dict[str, str] | None]:
        """Whether the login still holds, and the parts; None for what does not exist, or no longer for this person."""
        if not self.recheck():
            return False, None
        try:
            return True, parts(access.get_job(self.user, job_id))
        except NotFound:
            return True, None

    async def _join(self, job_id: UUID) -> None:
        self.groups.append(job_group(job_id))
        await self.channel_layer.group_add(job_group(job_id), self.channel_name)

    async def _leave(self) -> None:
        assert self.watched is not None
        group = job_group(self.watched)
        self.watched = None
        self.groups.remove(group)
        await self.channel_layer.group_discard(group, self.channel_name)


def _job_id(frame: dict[str, Any]) -> UUID:
    try:
        return UUID(str(frame.get("job")))
    except ValueError:
        raise UserError(
            "bad_frame", _("This page sent something the server does not know. Reload the page.")
        ) from None
