"""Logs: one line an event, and neither tokens nor the content of variables in them."""

from __future__ import annotations

import io
import json
import logging.config
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.log import log_response

from tests.services import ROOT, Valkey, minimal_environment
from webapp.core import logs, recent_errors
from webapp.core.logs import without_tokens
from webapp.ops import processes
from webapp.ops.broker import free_port

PROGRAM = """
import django; django.setup()
import logging, structlog
structlog.get_logger("ours").info("job_started", job="j1")
logging.getLogger("theirs").warning("%s happened", "it")
logging.getLogger("theirs").warning("unknown host %s", "a\\nFORGED \\x1b[2J")
structlog.get_logger("ours").info("agent", agent="b\\r\\nFORGED\\x9b\\u202e")
def fail(message): raise ValueError("boom")
try: fail("my private message")
except ValueError: logging.getLogger("theirs").exception("failed")
"""


STATIC_FILE = """
import django; django.setup()
import asyncio
from django.test import RequestFactory
from whitenoise.middleware import WhiteNoiseMiddleware
async def serve():
    whitenoise = WhiteNoiseMiddleware(None)
    response = whitenoise(RequestFactory().get(next(iter(whitenoise.files))))
    async for part in response: print(len(part))
asyncio.run(serve())
"""


def logged(tmp_path: Path, program: str = PROGRAM, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            **minimal_environment(),
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "FLYWHEEL_HOME": str(tmp_path),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


def test_json_logs_are_one_object_a_line(tmp_path: Path) -> None:
    events = [json.loads(line) for line in logged(tmp_path, LOG_FORMAT="json").splitlines()]
    names = [event["event"].split()[0] for event in events]
    assert names == ["job_started", "it", "unknown", "agent", "failed"]
    assert events[0]["job"] == "j1"
    assert "ValueError: boom" in events[4]["exception"]


def test_a_static_file_is_served_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    assert not logged(tmp_path, STATIC_FILE)


def test_what_pythons_warnings_and_the_web_server_say_is_json_too(broker: Valkey, tmp_path: Path) -> None:
    """Of a web process that does not start, since nobody has migrated the database."""
    done = subprocess.run(
        processes.web(host="127.0.0.1", port=free_port()).command,
        cwd=ROOT,
        env={
            **minimal_environment(),
            "FLYWHEEL_HOME": str(tmp_path),
            "REDIS_URL": broker.url,
            "LOG_FORMAT": "json",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    (refusal,) = [line for line in lines if line["event"].startswith("flywheel: The database lacks")]
    assert (refusal["logger"], refusal["level"]) == ("uvicorn.error", "error")
    # There is no folder of static files yet.
    assert [line["event"] for line in lines if line["logger"] == "py.warnings"]


def test_what_people_send_can_forge_no_line_and_command_no_terminal(tmp_path: Path) -> None:
    said = logged(tmp_path)
    assert said.count("FORGED") == 2
    assert not [line for line in said.splitlines() if line.startswith("FORGED")]
    assert not set(said) & {"\x1b", "\r", "\x9b", "\u202e"}


def test_tracebacks_do_not_show_what_variables_held(tmp_path: Path) -> None:
    said = logged(tmp_path)
    assert "ValueError: boom" in said
    # Once, in the source line of the program's own string, and never as the value of `message`.
    assert "message = " not in said
    assert "locals" not in said


@pytest.mark.parametrize(
    ("request_line", "logged_as"),
    [
        ("GET /join/Zk3vQm0aX7sT9uYw2bNc5dEf/", "GET /join/.../"),
        (
            "GET /accounts/password/reset/key/4-d1a2b3-0123456789abcdef/",
            "GET /accounts/password/reset/key/.../",
        ),
        ("GET /search?q=my+secret+project", "GET /search"),
        (
            "GET /c/7b0c7d2e-9b0f-4a58-8f5e-0d2a6a3f1c11/",
            "GET /c/7b0c7d2e-9b0f-4a58-8f5e-0d2a6a3f1c11/",
        ),
    ],
)
def test_addresses_are_logged_without_their_tokens(request_line: str, logged_as: str) -> None:
    assert without_tokens(None, "", {"request": request_line})["request"] == logged_as


def test_a_page_that_fails_shows_its_token_neither_in_logs_nor_to_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: deque[recent_errors.RecentError] = deque()
    monkeypatch.setattr(recent_errors, "_pending", told)
    request = RequestFactory().get("/join/Zk3vQm0aX7sT9uYw2bNc5dEf/")
    lines = io.StringIO()
    formatter = logging.config.BaseConfigurator({}).resolve("structlog.stdlib.ProcessorFormatter")
    line = logs.configuration("json", "INFO")["formatters"]["line"]
    handler = logging.StreamHandler(lines)
    handler.setFormatter(formatter(**{k: v for k, v in line.items() if k != "()"}))
    logger = logging.getLogger("django.request")
    for each in (handler, collector := recent_errors.Collector()):
        logger.addHandler(each)
    try:
        log_response(
            "%s: %s",
            "Internal Server Error",
            request.path,
            response=HttpResponse(status=500),
            request=request,
        )
    finally:
        for each in (handler, collector):
            logger.removeHandler(each)
    assert json.loads(lines.getvalue())["event"] == "Internal Server Error: /join/.../"
    assert {error.event for error in told} == {"Internal Server Error: /join/.../"}
