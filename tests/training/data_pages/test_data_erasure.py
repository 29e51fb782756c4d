"""Deleting datasets and people: rows and files go together, and what others share stays without a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from training import services, storage
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
