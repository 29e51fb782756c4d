"""What running a site costs those who use it meanwhile: a backup of a gigabyte, and a restart of every process."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.chat_client import chat_page
from tests.load.bench import Row
from tests.services import Site
from webapp.accounts.models import User, Workspace
from webapp.chat.models import Conversation, Message
from webapp.ops.backup.manifest import read_manifest

_MEGABYTE = 2**20
# Together a gigabyte: what people wrote, and what was trained.
ROWS_MB, FILES_MB = 300, 724
PEOPLE = 4


def backup() -> Iterator[Row]:
    """Made while people chat and open pages, on either database."""
    from tests.postgres import Cluster, binaries, create_database

    yield from backup_of(Site(), "")
    if binaries() is None:
        for name in ("ops.backup.1gb.postgres", "ops.backup.request.postgres"):
            yield Row.without_peer(name, 0.0, "PostgreSQL is not installed", "s", 1.0)
        return
    cluster = Cluster()
    try:
        durable(cluster.url("postgres"))
        yield from backup_of(Site(database_url=create_database(cluster.url("postgres"))), ".postgres")
    finally:
        cluster.stop()


def durable(server: str) -> None:
    """It writes to the disk what it says it has, as servers do that are not made for tests."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = on".encode())
        connection.execute("SELECT pg_reload_conf()")


def backup_of(site: Site, variant: str) -> Iterator[Row]:
    """`variant`: how its rows' names end."""
    to = Path(tempfile.mkdtemp(prefix="fwbackups"))
    try:
        site.start()
        site.create_owner()
        fill(site, ROWS_MB, FILES_MB)
        os.sync()  # old files are on the disk: commits would wait for them, and not for the backup
        seconds, worst = asyncio.run(under_chat(site, to))
        (folder,) = to.glob("flywheel-*")
        size = read_manifest(folder).size
        assert size > 10**9, f"it has only {size} bytes"
        yield Row.at_most(f"ops.backup.1gb{variant}", seconds, 120.0, "s")
        yield Row.at_most(f"ops.backup.request{variant}", worst, 1.0, "s")
    finally:
        site.stop()
        shutil.rmtree(to, ignore_errors=True)


def fill(site: Site, rows_mb: int, files_mb: int) -> None:
    """Old conversations, and files that rows name."""
    from tests.webapp.ops.backup.kept import add_adapter

    with site.rows():
        workspace, person = Workspace.objects.get(), User.objects.get()
        kept = Conversation.objects.create(
            workspace=workspace, user=person, title="Long ago", updated_at="2026-01-01T00:00:00Z"
        )
        for at in range(rows_mb):
            texts = [os.urandom(4096).hex() for _ in range(_MEGABYTE // 8192)]
            Message.objects.bulk_create(
                Message(conversation=kept, position=at * len(texts) + number, role="user", text=text)
                for number, text in enumerate(texts)
            )
    noise = os.urandom(16 * _MEGABYTE)
    for _ in range(4):
        with (add_adapter(site, 0) / "adapter_model.safetensors").open("wb") as file:
            for _block in range(files_mb // 4 // 16):
                file.write(noise)


async def under_chat(site: Site, to: Path) -> tuple[float, float]:
    """The backup's seconds, and those of the slowest page or message meanwhile."""
    over, slowest = asyncio.Event(), 0.0
    http = site.log_in()

    async def chat() -> None:
        nonlocal slowest
        async with chat_page(site, http) as page:
            while not over.is_set():
                began = time.monotonic()
                said = await page.say("Hello tokens=50")
                slowest = max(slowest, time.monotonic() - began)
                await page.ends(said)

    async def look() -> None:
        nonlocal slowest
        async with httpx.AsyncClient(base_url=site.base_url, cookies=http.cookies, timeout=60) as client:
            while not over.is_set():
                began = time.monotonic()
                assert (await client.get("/")).status_code == 200
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.1)

    work = [asyncio.ensure_future(each) for each in (*(chat() for _ in range(PEOPLE)), look())]
    await asyncio.sleep(2)
    slowest = 0.0  # the first of each is loading code
    began = time.monotonic()
    await asyncio.to_thread(site.manage, "backup", "--to", str(to))
    seconds = time.monotonic() - began
    over.set()
    await asyncio.gather(*work)
    return seconds, slowest


def rolling() -> Iterator[Row]:
    """Every process in turn, under twenty who chat: the share of replies that came whole, without a server's error."""
    from tests.deploy.deployed_site import DeployedSite
    from tests.deploy.nginx import nginx_binary
    from tests.deploy.rolling import EVERY_PROCESS, roll
    from tests.postgres import Cluster, binaries

    name, target = "ops.rolling.20", 1.0
    if nginx_binary() is None or binaries() is None:
        yield Row.without_peer(name, 0.0, "nginx and PostgreSQL are not installed", "share", target)
        return
    cluster = Cluster()
    site = DeployedSite(cluster.url("postgres"))
    try:
        site.start()
        reply = "tokens=60 rate=20"
        seen = asyncio.run(roll(site, people=12, programs=8, processes=EVERY_PROCESS, reply=reply))
        for line in seen.wrong[:20]:
            print(f"  {line}")
        print(
            f"  {seen.replies} replies, {seen.answers} answers, {seen.handed_over} handed over, {seen.exits}"
        )
        whole = seen.replies + seen.answers
        yield Row.at_least(name, whole / (whole + len(seen.wrong)), 1.0, "share", target)
    finally:
        site.end()
        cluster.stop()
