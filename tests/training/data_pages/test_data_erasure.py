"""Deleting datasets and people: rows and files go together, and what others share stays without a name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.training.data_pages.conftest import Seen
from training import services, storage, tasks
from training.datasets.recipe import Recipe
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from webapp.accounts import erasure
from webapp.accounts.models import AuditEvent, Membership, Role, User, Workspace

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]


def frozen(dataset: Dataset, user: User) -> DatasetVersion:
    version = services.start_freeze(dataset=dataset, recipe=Recipe(), user=user)
    storage.version_folder(version).mkdir(parents=True)
    return version


def test_deleting_a_dataset_takes_its_files_when_that_is_certain(
    dataset: Dataset,
    report: DataWork,
    alice: User,
    home: Path,
    logged_in: LogIn,
    django_capture_on_commit_callbacks: Any,
) -> None:
    frozen(dataset, alice)
    outside = home / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (storage.dataset_folder(dataset.pk) / "sources" / "link").symlink_to(outside)
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        logged_in(alice).post(f"/data/{dataset.pk}/delete/")
        assert storage.dataset_folder(dataset.pk).is_dir()
    assert callbacks
    assert not storage.dataset_folder(dataset.pk).exists()
    assert (outside / "kept").exists()
    assert not DataWork.objects.exists()
    assert AuditEvent.objects.filter(action="dataset_deleted", actor=alice).exists()


def test_a_person_who_goes_takes_what_only_they_had(
    elsewhere: Workspace, charlie: User, django_capture_on_commit_callbacks: Any
) -> None:
    own = services.create_dataset(user=charlie, workspace=elsewhere, name="Diary")
    storage.dataset_folder(own.pk).mkdir(parents=True)
    with django_capture_on_commit_callbacks(execute=True):
        lines = {line.what: line for line in erasure.erase_user(user=charlie)}
    assert not Dataset.objects.exists()
    assert not storage.dataset_folder(own.pk).exists()
    line = lines["Datasets only you could see, with their files"]
    assert (line.count, line.note) == (1, "Diary")


def test_what_a_person_made_for_others_stays_without_their_name(
    dataset: Dataset, report: DataWork, dora: User, alice: User, django_capture_on_commit_callbacks: Any
) -> None:
    Membership.objects.filter(user=dora).update(role=Role.OWNER)
    version = frozen(dataset, alice)
    with django_capture_on_commit_callbacks(execute=True):
        lines = {line.what: line for line in erasure.erase_user(user=alice)}
    dataset.refresh_from_db()
    version.refresh_from_db()
    assert (dataset.created_by, version.created_by) == (None, None)
    assert storage.version_folder(version).is_dir()
    assert "Support" in lines["Datasets you made for others too"].note


def test_a_workspace_that_goes_takes_its_data(
    dataset: Dataset, source: SourceFile, workspace: Workspace, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        workspace.delete()
    assert not storage.dataset_folder(dataset.pk).exists()


def test_what_is_made_frozen_and_deleted_is_in_the_audit_log(
    dataset: Dataset, report: DataWork, alice: User, logged_in: LogIn
) -> None:
    version = frozen(dataset, alice)
    DataWork.objects.update(state="ready")
    client = logged_in(alice)
    client.post(f"/data/versions/{version.pk}/delete/")
    client.post(f"/data/{dataset.pk}/delete/")
    page = client.get("/settings/workspace/audit/").content.decode()
    for act in ("Created", "Froze a version of", "Deleted a version of", "Deleted"):  # each "a dataset"
        assert f"{act} a dataset" in page


def said_anywhere(word: str, folder: Path, *rows: Any) -> bool:
    """In a file below the folder, or in what rows hold."""
    files = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return any(word.encode() in content for content in files) or word in json.dumps(rows)


@pytest.fixture
def checked(dataset: Dataset, seen: Seen, logged_in: LogIn, alice: User) -> Callable[..., Client]:
    """Alice's browser, once these files are checked."""

    def checked(**files: str) -> Client:
        for name, words in files.items():
            lines = ({"prompt": f"{words} {n}?", "completion": f"{n}: eve@example.com"} for n in range(20))
            seen(f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
        client = logged_in(alice)
        client.post(f"/data/{dataset.pk}/report/", {})
        tasks.run(str(dataset.work.get(state="queued").pk))
        return client

    return checked


@pytest.mark.django_db(transaction=True)
def test_what_was_redacted_is_nowhere_in_the_version(
    dataset: Dataset, checked: Callable[..., Client]
) -> None:
    client = checked(orders="Order")
    switches = {"missing": "keep", "deduplicate": "", "too_long": "keep", "validation": "10", "test": "0"}
    client.post(f"/data/{dataset.pk}/clean/", switches | {"redact": "email", "freeze": "1"})
    tasks.run(str(dataset.work.get(state="queued").pk))
    version = dataset.versions.get()
    assert version.train + version.validation == 20
    assert said_anywhere("[EMAIL]", storage.version_folder(version))
    assert not said_anywhere("eve@", storage.version_folder(version), version.manifest)


@pytest.mark.django_db(transaction=True)
def test_a_file_that_is_removed_is_in_nothing_that_was_read_of_it(
    dataset: Dataset, checked: Callable[..., Client], django_capture_on_commit_callbacks: Any
) -> None:
    folder = storage.dataset_folder(dataset.pk)
    client = checked(orders="Order", secrets="Gnome")
    services.start_preview(dataset=dataset, recipe=Recipe(redact=["email"]))
    tasks.run(str(dataset.work.get(state="queued").pk))
    DataWork.objects.filter(dataset=dataset, kind="report").update(
        result=services.last_report(dataset).result | {"previews": [[{"text": "Gnome", "trained": True}]]}  # type: ignore[union-attr,operator]
    )

    def kept() -> bool:
        rows = DataWork.objects.filter(dataset=dataset).values_list("result", flat=True)
        return said_anywhere("Gnome", folder, *rows)

    assert kept()
    file = dataset.files.get(name="secrets.jsonl")
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(f"/data/files/{file.pk}/remove/").status_code == 302
    assert not kept()
    assert (
        "The files have changed since this check"
        in client.get(f"/data/{dataset.pk}/report/").content.decode()
    )
    for page in ("", "clean/", "versions/", "report/problems.csv"):
        assert client.get(f"/data/{dataset.pk}/{page}").status_code == 200, page
    # What was read is gone, also should the same file come once more.
    SourceFile.objects.create(
        dataset=dataset, name=file.name, size=file.size, received=file.size, sha256=file.sha256, state="ready",
        detected=file.detected, reading=file.reading, received_at=file.received_at,
    )  # fmt: skip
    assert not services.is_current(services.last_report(dataset))  # type: ignore[arg-type]
