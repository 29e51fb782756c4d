"""A chat page without a browser: speaks the websocket's protocol and shows what a page would show."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import websockets
from asgiref.sync import sync_to_async

from inference.models import Generation
from tests.live_site import LiveSite
from webapp.chat.markdown import render, split


@dataclass
class ShownReply:
    """A reply's element: finished blocks, the open block's HTML, and plain text behind it."""

    generation: str
    blocks: list[str] = field(default_factory=list)
    open: str = ""
    text: str = ""
    attempt: int = -1
    state: str = ""
    html: str = ""
    frames: int = 0

    def apply(self, frame: dict[str, Any]) -> None:
        self.frames += 1
        self.attempt = frame["attempt"]
        if "base" in frame:
            del self.blocks[frame["base"] :]
            self.open = self.text = ""
        if frame.get("blocks"):
            self.blocks += frame["blocks"]
            self.open = self.text = ""
        if "open" in frame:
            self.open, self.text = frame["open"], ""
        self.text += frame.get("text", "")

    def complete(self, html: str) -> None:
        """The reply ended while this page was away: the rest of it comes with the end. What was finished stays."""
        body = html.split('<div class="block">', 1)[1].rsplit('<div class="open">', 1)[0]
        blocks = [block.removesuffix("</div>") for block in body.split('<div class="block">')]
        assert blocks[: len(self.blocks)] == self.blocks, "a finished block is never touched again"
        self.blocks, self.open, self.text = blocks, "", ""

    def shows(self, text: str) -> bool:
        """Whether the element of a reply that ended shows exactly `text`, rendered."""
        finished, rest = split(text)
        blocks = [html for html in map(render, [*finished, rest]) if html]
        return (self.blocks, self.open, self.text) == (blocks, "", "")


class ChatPage:
    """One open page of a person. Frames are taken in by a task; `wait` waits for what they bring about."""

    def __init__(self, site: LiveSite, http: httpx.Client) -> None:
        self._site, self._http = site, http
        self.replies: dict[str, ShownReply] = {}
        self.conversation: str | None = None
        self.frames: list[dict[str, Any]] = []
        self.reconnects = 0
        self._growing: set[str] = set()  # replies that were streamed over this connection
        self._changed = asyncio.Condition()
        self._socket: websockets.ClientConnection | None = None

    async def run(self) -> None:
        """Connects, and again whenever the connection breaks, as a page does."""
        while True:
            try:
                headers = self._site.ws_headers(self._http)
                origin = headers.pop("Origin")
                async with websockets.connect(
                    self._site.ws_url,
                    additional_headers=headers,
                    origin=origin,
                    ssl=self._site.tls,
                    compression=None,
                    ping_interval=None,  # type: ignore[arg-type]
                ) as socket:
                    if self.conversation is not None:
                        await socket.send(json.dumps(self._open_frame()))
                    self._socket = socket
                    self._growing.clear()
                    await self._note({})
                    async for message in socket:
                        await self._take(json.loads(message))
            except (OSError, websockets.WebSocketException):
                pass
            self._socket = None
            self.reconnects += 1
            await asyncio.sleep(0.05)

    def _open_frame(self) -> dict[str, Any]:
        have = [
            {"message": id_, "blocks": len(reply.blocks), "attempt": reply.attempt}
            for id_, reply in self.replies.items()
            if not reply.state
        ]
        return {"type": "open", "conversation": self.conversation, "have": have}

    async def _take(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "accepted":
            self.conversation = frame["conversation"]
        if frame["type"] in ("accepted", "messages") and frame["conversation"] == self.conversation:
            self.replies.setdefault(frame["reply"], ShownReply(frame["generation"]))
        elif frame["type"] == "stream":
            self._growing.add(frame["message"])
            self.replies.setdefault(frame["message"], ShownReply("")).apply(frame)
        elif frame["type"] == "done":
            reply = self.replies[frame["message"]]
            reply.state, reply.html = frame["state"], frame["html"]
            if frame["message"] not in self._growing and '<div class="block">' in frame["html"]:
                reply.complete(frame["html"])
        await self._note(frame)

    async def _note(self, frame: dict[str, Any]) -> None:
        async with self._changed:
            if frame:
                self.frames.append(frame)
            self._changed.notify_all()

    async def wait(self, condition: Callable[[], Any], seconds: float = 90.0) -> Any:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), seconds)
            return condition()

    async def command(self, type_: str, **fields: Any) -> None:
        while (socket := await self.wait(lambda: self._socket)) is None:
            pass  # it was lost again before we had our turn
        if type_ == "open":
            self.conversation = fields["conversation"]
        await socket.send(json.dumps({"type": type_, **fields}))

    async def drop_connection(self) -> None:
        assert self._socket is not None
        self._socket.transport.abort()

    async def say(self, text: str, tries: int = 10) -> str:
        """Sends a message and returns the reply's id once it is accepted, within 5 s of one of so many tries; sends
        again after a broken connection."""
        client_id = str(uuid.uuid4())

        def answer() -> dict[str, Any] | None:
            return next((frame for frame in self.frames if frame.get("client_id") == client_id), None)

        for _ in range(tries):
            with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
                await self.command("send", conversation=self.conversation, client_id=client_id, text=text)
                frame = await self.wait(answer, 5)
                assert frame["type"] == "accepted", frame
                return str(frame["reply"])
        raise AssertionError("the message was never accepted")

    async def joins(self) -> None:
        """A pong comes when the server has made the socket a tab of its person's, who hears what other tabs do."""
        for _ in range(30):
            with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
                await self.command("ping")
                await self.wait(lambda: any(frame["type"] == "pong" for frame in self.frames), 1)
                return
        raise AssertionError("the page never became a tab of its person's")

    async def text_arrives(self, reply: str, blocks: int = 0) -> None:
        """Waits until some text of a reply is on the page, and so many finished blocks."""
        shown = self.replies[reply]
        await self.wait(lambda: len(shown.blocks) >= blocks and (shown.text or shown.open or shown.blocks))

    async def ends(self, reply: str, seconds: float = 120.0) -> ShownReply:
        await self.wait(lambda: self.replies[reply].state, seconds)
        return self.replies[reply]


@contextlib.asynccontextmanager
async def chat_page(
    site: LiveSite, http: httpx.Client, conversation: str | None = None
) -> AsyncIterator[ChatPage]:
    page = ChatPage(site, http)
    page.conversation = conversation
    task = asyncio.ensure_future(page.run())
    try:
        await page.joins()
        page.frames.clear()
        yield page
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@sync_to_async
def generation_row(site: LiveSite, generation_id: str) -> Generation:
    """A generation as the site's database has it."""
    with site.rows():
        return Generation.objects.get(id=generation_id)
