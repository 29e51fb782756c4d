"""Wrong settings: one sentence, whichever process reads them, and never a traceback or a password."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import ROOT, minimal_environment
from webapp import database
from webapp.core import mail
from webapp.env import SettingsError

COMMANDS = {
    "manage.py": ["manage.py", "check"],
    "start": ["-m", "webapp.ops.start", "web"],
    "web": ["-m", "webapp.core.web_server", "webapp.asgi:application", "--port", "1"],
    "worker": ["-m", "webapp.ops.celery_process", "worker", "-n", "w@%h", "-Q", "default", "-c", "1"],
}


@pytest.mark.parametrize("program", COMMANDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("REDIS_URL", "redis://:hunter2#x@127.0.0.1:6379/0"),
        ("EMAIL_URL", "smtp://"),
        ("SITE_URL", "https://chat.example.org:https"),
    ],
)
def test_a_wrong_setting_is_one_sentence(program: str, name: str, value: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *COMMANDS[program]],
        cwd=ROOT,
        env={**minimal_environment(), "FLYWHEEL_HOME": str(tmp_path), name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = (done.stdout + done.stderr).strip()
    assert done.returncode != 0
    assert len(said.splitlines()) == 1, said
    assert said.startswith(f"flywheel: {name} ")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            None,
            "which cannot be read (Is a directory): let the user that runs this read it, or correct the name.",
        ),
        (b"\xff\xfe", "which is not text in UTF-8: name another file."),
    ],
)
def test_a_secret_file_that_cannot_be_read_is_said_with_what_to_do(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir() if content is None else secret.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**minimal_environment(), "FLYWHEEL_HOME": str(tmp_path), "SECRET_KEY_FILE": str(secret)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == f"flywheel: SECRET_KEY_FILE names {secret}, {sentence}"


def test_a_secret_may_come_from_a_file_but_not_twice(tmp_path: Path) -> None:
    secret = tmp_path / "database_url"
    secret.write_text(f"sqlite:///{tmp_path}/from-file.sqlite3\n")
    command = [
        sys.executable,
        "-c",
        "from webapp.settings import DATABASES; print(DATABASES['default']['NAME'])",
    ]
    environment = {**minimal_environment(), "FLYWHEEL_HOME": str(tmp_path), "DATABASE_URL_FILE": str(secret)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"{tmp_path}/from-file.sqlite3"
    environment["DATABASE_URL"] = "sqlite:///other"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert "DATABASE_URL and DATABASE_URL_FILE are both set" in done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.org", ("mail.example.org", 25, "", "", False, False)),
        ("smtp://u:p%40ss%2F@mail.example.org", ("mail.example.org", 587, "u", "p@ss/", True, False)),
        ("smtp://u:p@mail.example.org:2525/?tls=none", ("mail.example.org", 2525, "u", "p", False, False)),
        ("smtp://mail.example.org?tls=starttls", ("mail.example.org", 587, "", "", True, False)),
        ("smtps://u:p@mail.example.org", ("mail.example.org", 465, "u", "p", False, True)),
    ],
)
def test_a_mail_url_says_how_to_send(url: str, expected: tuple[object, ...]) -> None:
    found = mail.settings_of(url)
    names = ("HOST", "PORT", "HOST_USER", "HOST_PASSWORD", "USE_TLS", "USE_SSL")
    assert tuple(found[f"EMAIL_{name}"] for name in names) == expected


@pytest.mark.parametrize(
    "url",
    [
        "smtp://",
        "smtp://:587",
        "smtp://user@host",
        "smtp://u:hunter2@host:port",
        "smtp://u:hunter2@host:99999",
        "smtp://u:hunter2@host?tls=maybe",
        "smtp://u:hunter2@host?ssl=1",
        "smtps://u:hunter2@host?tls=starttls",
        "smtp://u:hunter2@host/x",
    ],
)
def test_a_wrong_mail_url_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="EMAIL_URL") as caught:
        mail.settings_of(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgres://u:hunter2@host", "postgres://u:hunter2@host:port/name", "sqlite://"]
)
def test_a_database_url_that_names_no_database_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        database.configuration(url)
    assert "hunter2" not in str(caught.value)
