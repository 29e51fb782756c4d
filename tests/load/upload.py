"""What a large file costs the web process while it is sent as the page's script sends it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil

from tests.load.bench import Row
from tests.services import Site

_SIZE = 2 * 10**9
_PART = 2 * 2**20


def two_gigabytes() -> Iterator[Row]:
    """Megabytes by which its memory grew at most, once it has taken a small one."""
    site = Site()
    try:
        site.start()
        site.create_owner()
        process = psutil.Process(site.web.pid)
        _send(site, process, 10 * _PART)
        before = process.memory_info().rss
        most = _send(site, process, _SIZE)
        yield Row.at_most("data.upload.memory", max(0, most - before) / 1e6, 100, "MB")
    finally:
        site.stop()


def _send(site: Site, process: psutil.Process, size: int) -> int:
    """The most bytes of memory that the process had meanwhile."""
    line = (
        b'{"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]}\n'
    )
    part = (line * (_PART // len(line) + 1))[:_PART]
    most = 0
    with contextlib.closing(site.log_in()) as client:
        home = site.submit(client, "/data/", name=f"of {size} bytes")
        token = {
            "Referer": site.base_url,
            "X-CSRFToken": next(
                value for name, value in client.cookies.items() if name.startswith("flywheel_csrf_")
            ),
        }
        announced = {"name": "chats.jsonl", "size": size}
        begun = client.post(f"{home.url.path}files/", json=announced, headers=token).raise_for_status()
        for offset in range(0, size, _PART):
            body = part[: size - offset]
            address = f"{begun.json()['content']}?offset={offset}"
            client.put(address, content=body, headers=token).raise_for_status()
            most = max(most, process.memory_info().rss)
    return most
