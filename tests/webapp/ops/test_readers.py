"""What commands print may be read by somebody who stops reading, as `head` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import new_site
from tests.services import ROOT, Site
from webapp.ops import reader


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = new_site()
    try:
        site.migrate()
        yield site
    finally:
        site.stop()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["doctor", "status", "models list", "retain --dry-run", "help"])
def test_a_command_whose_reader_has_seen_enough_ends_quietly(
    site: Site, command: str, unbuffered: str
) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "manage.py", *command.split()],
            cwd=ROOT,
            env={**site.environment, "PYTHONUNBUFFERED": unbuffered},
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=90,
        )
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_another_pipe_that_is_broken_is_no_reader_that_left(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError), reader.who_may_leave():
        raise BrokenPipeError("a server's")
