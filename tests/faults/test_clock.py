"""A host whose clock is set by an hour, forward and back, while it answers: real processes, real sockets."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chat_client import chat_page, generation_row
from tests.conftest import new_site
from tests.scripted_engine import text_of
from tests.services import Site

pytestmark = pytest.mark.faults

TOKENS = 250
HOUR = 3600
# Stands between a process and its machine's wall clock; how fast time passes, the monotonic clock, is left alone.
SHIFT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile long long *ahead;
static int (*usual)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
    ahead = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    usual = dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t which, struct timespec *now) {
    if (!usual) usual = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = usual(which, now);
    if (!failed && which == CLOCK_REALTIME && ahead) now->tv_sec += *ahead;
    return failed;
}
"""
SetClock = Callable[[int], None]


@pytest.fixture
def set_clock(tmp_path: Path) -> SetClock:
    """Sets the host's clock so many seconds ahead of what it is."""
    (tmp_path / "ahead").write_bytes(struct.pack("q", 0))

    def set_it(seconds: int) -> None:
        descriptor = os.open(tmp_path / "ahead", os.O_WRONLY)
        os.pwrite(descriptor, struct.pack("q", seconds), 0)
        os.close(descriptor)

    return set_it


@pytest.fixture
def site(set_clock: SetClock, tmp_path: Path) -> Iterator[Site]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (on Debian: apt-get install gcc)")
    (tmp_path / "shift.c").write_text(SHIFT)
    options = ["-shared", "-fPIC", "-o", str(tmp_path / "shift.so"), str(tmp_path / "shift.c"), "-ldl"]
    subprocess.run([compiler, *options], check=True)
    site = new_site(
        environment={
            "LD_PRELOAD": str(tmp_path / "shift.so"),
            "CLOCK_AHEAD": str(tmp_path / "ahead"),
            # Renewed every seven seconds: the reaper, which looks every two, comes first.
            "INFERENCE_LEASE_SECONDS": "20",
        }
    )
    try:
        site.start()
        site.create_owner()
        yield site
    finally:
        site.stop()


async def test_a_clock_that_is_set_loses_no_reply_and_writes_none_twice(
    site: Site, set_clock: SetClock
) -> None:
    async with chat_page(site, site.log_in()) as page:
        for ahead in (HOUR, 0, -HOUR):
            reply = await page.say(f"Hello tokens={TOKENS}")
            await page.text_arrives(reply, blocks=1)
            set_clock(ahead)
            shown = await page.ends(reply)
            row = await generation_row(site, shown.generation)
            assert (row.state, row.attempt, row.crashes) == ("complete", 1, 0)
            assert row.text == text_of(row.seed, TOKENS)
        # An hour ago it was later than now: whoever dies is noticed all the same.
        reply = await page.say(f"Hello tokens={TOKENS}")
        await page.text_arrives(reply, blocks=1)
        await asyncio.to_thread(site.inference[0].kill)
        await asyncio.to_thread(site.start_inference)
        row = await generation_row(site, (await page.ends(reply)).generation)
        assert (row.state, row.attempt, row.crashes) == ("complete", 2, 1)
