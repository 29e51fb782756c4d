"""From the click on "Try it" to the first word of a model that was fine-tuned a moment ago, on a worker at work."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from django.test import override_settings

from inference.engine.config_gguf import config_from_gguf
from inference.formats.gguf_file import read_gguf
from inference.model_services import add_adapter
from inference.models import ServedModel
from tests.demo_model import demo_model
from tests.inference.lora_adapters import save_adapter
from tests.load.bench import Row
from tests.load.people import cookies
from tests.load.raw_socket import RawSocket
from tests.load.sockets import send_frame
from tests.load.streaming import Streamed
from tests.services import REAL, Site
from webapp.accounts.models import Workspace

_QUESTION = "Where is my order, and when will it be here?"
_ADAPTERS = 5


class _Tried(Streamed):
    """Stopped at its first word, so that the next one has the engine to itself."""

    _reply = ""

    def take(self, payload: bytes) -> None:
        frame = json.loads(payload)
        self._reply = frame["reply"] if frame["type"] == "accepted" else self._reply
        is_first = not self.first
        super().take(payload)
        self.last_frame = frame
        if is_first and self.first and self.socket is not None:
            self.socket.send({"type": "stop", "message": self._reply})


def first_word() -> Iterator[Row]:
    """Of adapters of rank 16 that no worker has read yet, and of the model they are for, by turns."""
    site = Site(engine=REAL)
    try:
        site.start()
        [cookie] = cookies(site, 1)
        adapters = _published(site)
        asyncio.run(_wait(site, cookie, ""))  # warms up
        base, tried = [], []
        for adapter in adapters:
            base.append(asyncio.run(_wait(site, cookie, "")))
            tried.append(asyncio.run(_wait(site, cookie, adapter)))
    finally:
        site.stop()
    usual, slowest = statistics.median(base), max(tried)
    print(
        f"    p50 {statistics.median(tried):.2f} s, most {slowest:.2f} s; of the base model p50 {usual:.2f} s"
    )
    yield Row.at_most("trainer.tried.seconds", slowest, 3, "s")


def _published(site: Site) -> list[str]:
    """As jobs that have succeeded leave them: their ids."""
    config = config_from_gguf(read_gguf(next(demo_model().glob("*.gguf"))))
    at_home = override_settings(FLYWHEEL_HOME=site.home)
    with tempfile.TemporaryDirectory() as folder, site.rows(), at_home:
        workspace, base = Workspace.objects.get(name="Many"), ServedModel.objects.get(is_default=True)
        return [
            str(
                add_adapter(
                    workspace=workspace,
                    base=base,
                    name=f"ft:demo:many:{n}",
                    source=save_adapter(Path(folder) / str(n), config, seed=n, r=16, strength=0.1),
                ).pk
            )
            for n in range(_ADAPTERS)
        ]


async def _wait(site: Site, cookie: str, model: str) -> float:
    """Seconds: the page is got, its socket opened, the question sent, and something of the answer has come."""
    clicked = time.monotonic()
    async with httpx.AsyncClient(base_url=site.base_url, headers={"Cookie": cookie}) as client:
        page = await client.get("/", params={"model": model} if model else {})
    assert page.status_code == 200, page
    streamed = _Tried()
    streamed.socket = await RawSocket.open(site.port, cookie, streamed.take)
    streamed.socket.send(send_frame(_QUESTION) | ({"model": model} if model else {}))
    await asyncio.wait_for(streamed.done, 300)
    streamed.socket.close()
    assert streamed.first, f"It said nothing: {streamed.last_frame}"
    return streamed.first - clicked
