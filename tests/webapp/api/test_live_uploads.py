"""Files on their way to a live site: straight to the disk, of unknown length, broken off, or from nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.services import Site, wait_until
from tests.webapp.api.live_clients import http_client, key_of, new_key

BOUNDARY = "x-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="large.txt"\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
MEGABYTE = b"0123456789abcde\n" * 2**16


@pytest.fixture
def key(live_site: Site) -> str:
    return key_of(live_site)


def incoming(site: Site) -> list[Path]:
    folder = site.home / "datasets" / "incoming"
    return list(folder.iterdir()) if folder.is_dir() else []


def test_a_file_of_unknown_length_goes_to_the_disk_and_not_through_memory(live_site: Site, key: str) -> None:
    def body() -> Iterator[bytes]:
        yield HEAD
        for _ in range(100):
            yield MEGABYTE
        yield TAIL

    web = psutil.Process(live_site.web.pid)
    with http_client(live_site, key) as client:
        client.get("/models")  # whatever is loaded with the first request is
        before = web.memory_info().rss
        answer = client.post("/files", content=body(), headers=FORM)
        assert answer.status_code == 200, answer.text
        grown = web.memory_info().rss - before
        made = answer.json()
        assert made["bytes"] == 100 * 2**20
        assert grown < 32 * 2**20
        stored = [
            path
            for path in (live_site.home / "datasets").rglob("*")
            if path.name.replace("-", "") in made["id"]
        ]
        assert stored[0].stat().st_size == made["bytes"]
        assert not incoming(live_site)
        assert client.delete(f"/files/{made['id']}").json()["deleted"]
    wait_until(lambda: not stored[0].exists(), "the file to go")


def begun(site: Site, key: str, length: int) -> socket.socket:
    """A connection on which an upload of so many bytes was announced."""
    connection = socket.create_connection(("127.0.0.1", site.port), timeout=30)
    connection.sendall(
        f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    return connection


def test_of_an_upload_that_breaks_off_nothing_is_left(live_site: Site, key: str) -> None:
    with begun(live_site, key, 50 * 2**20) as connection:
        connection.sendall(HEAD + MEGABYTE)
        wait_until(lambda: incoming(live_site), "the file to be on its way")
    wait_until(lambda: not incoming(live_site), "it to be gone")
    with http_client(live_site, key) as client:
        assert [file for file in client.get("/files").json()["data"] if file["filename"] == "large.txt"] == []


def test_who_may_not_upload_is_told_before_they_have_sent_the_file(live_site: Site) -> None:
    chat_only = new_key(live_site, "alice@example.org", "chat")
    for key, status in (("fw-nonsense", b"401"), (chat_only, b"403")):
        with begun(live_site, key, 50 * 2**20) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 " + status)


def test_more_than_the_limit_is_refused_by_its_announcement(live_site: Site, key: str) -> None:
    with begun(live_site, key, 2**40) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
