"""What tests of the data pages share: a home folder of their own, browsers with somebody in them, a dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from training import services, storage, tasks, work
from training.datasets.problems import Problem
from training.datasets.report import Count, Histogram, PreviewToken, Report
from training.models import Dataset, DataWork, SourceFile
from webapp.accounts.models import Membership, Role, User, Workspace

LogIn = Callable[[User], Client]
Seen = Callable[[str, bytes], SourceFile]


@pytest.fixture(autouse=True)
def home(settings: Settings, tmp_path: Path) -> Path:
    settings.FLYWHEEL_HOME = tmp_path
    return tmp_path


@pytest.fixture
def logged_in() -> LogIn:
    def log_in(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def dora(workspace: Workspace) -> User:
    """An admin of Alice's workspace."""
    dora = User.objects.create_user("dora@example.org", "correct horse 4", name="Dora")
    Membership.objects.create(workspace=workspace, user=dora, role=Role.ADMIN)
    return dora


@pytest.fixture
def dataset(workspace: Workspace, alice: User) -> Dataset:
    return services.create_dataset(user=alice, workspace=workspace, name="Support")


@pytest.fixture
def source(dataset: Dataset) -> SourceFile:
    """A file that has arrived and was looked at."""
    content = b'{"text": "hello", "label": "greeting"}\n'
    file = SourceFile.objects.create(
        dataset=dataset,
        name="tickets.jsonl",
        size=len(content),
        received=len(content),
        sha256="0" * 64,
        state=SourceFile.State.READY,
        detected={"reason": "", "columns": ["text", "label"], "rows": [{"text": "hello", "label": "greeting"}]},
        reading={"layout": "jsonl", "shape": "labelled"},
        received_at=timezone.now(),
    )  # fmt: skip
    path = storage.source_path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return file


@pytest.fixture
def seen(dataset: Dataset) -> Seen:
    """Puts a file there that has arrived and was looked at by the worker that does so."""

    def seen(name: str, content: bytes) -> SourceFile:
        file = SourceFile.objects.create(
            dataset=dataset, name=name, size=len(content), received=len(content),
            state=SourceFile.State.DETECTING, received_at=timezone.now(),
        )  # fmt: skip
        path = storage.source_path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        tasks.run(str(work.begin_work(dataset=dataset, kind="detect", file=file, parameters={}).pk))
        dataset.work.filter(kind="report", state="queued").delete()  # the first check, which begins by itself
        file.refresh_from_db()
        return file

    return seen


@pytest.fixture
def report(dataset: Dataset, source: SourceFile) -> DataWork:
    """A check of it that found something."""
    made = services.start_report(dataset=dataset)
    found = Report(
        kind="labelled", files=["tickets.jsonl"], read=1200, usable=1100,
        problems=[Count("invalid_json", 90), Count("empty_text", 10)],
        severities={"invalid_json": "error", "empty_text": "warning"},
        exact_duplicates=7, near_duplicates=3, overlap=0, personal_data=[Count("email", 12)],
        languages=[Count("en", 900), Count("de", 200)], labels=[Count("greeting", 700), Count("farewell", 400)],
        outliers=2, tokens=Histogram([0, 10, 20, 40], [500, 500, 100], 1100, 11, 10, 22, 39), trained_tokens=0,
        too_long=0, lost_tokens=0,
        previews=[[PreviewToken("user: hi", False), PreviewToken("hello", True)]],
        target_model="demo", max_tokens=2048, languages_of=1100,
    )  # fmt: skip
    problems = [
        Problem(
            "invalid_json", "error", "tickets.jsonl", n + 1, "", '{"text": ', "This is no JSON.", "Fix it."
        )
        for n in range(90)
    ] + [Problem("empty_text", "warning", "=cmd()", 200, "text", "", "There is no text.", "Write one.")]
    folder = storage.work_folder(made)
    folder.mkdir(parents=True)
    (folder / "problems.jsonl").write_bytes(b"".join(msgspec.json.encode(p) + b"\n" for p in problems))
    DataWork.objects.filter(pk=made.pk).update(
        state=DataWork.State.READY, result=msgspec.to_builtins(found), finished_at=timezone.now()
    )
    made.refresh_from_db()
    return made
