"""Uploading by HTTP: in parts, resumed, refused with a sentence, and never under a name that somebody gave."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tests.synced import note_synced
from training import storage, uploads, work
from training.models import Dataset, DataWork, SourceFile
from webapp.accounts.models import User, Workspace
from webapp.core.body_limit import MAX_BODY_BYTES
from webapp.core.errors import UserError

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]


def begin(client: Client, dataset: Dataset, name: str = "a.jsonl", size: object = 10, **more: object) -> Any:
    return client.post(
        f"/data/{dataset.pk}/files/",
        json.dumps({"name": name, "size": size, **more}),
        content_type="application/json",
        headers={"Accept": "application/json"},
    )


def put(client: Client, place: str, offset: object, part: bytes) -> Any:
    return client.put(
        f"{place}?offset={offset}",
        part,
        content_type="application/octet-stream",
        headers={"Accept": "application/json"},
    )


@pytest.fixture
def client(alice: User, logged_in: LogIn) -> Client:
    return logged_in(alice)


def test_a_file_arrives_in_parts_and_is_then_looked_at(
    client: Client, dataset: Dataset, django_capture_on_commit_callbacks: Any
) -> None:
    begun = begin(client, dataset, size=10)
    assert begun.status_code == 201
    place = begun.json()["content"]
    assert put(client, place, 0, b"01234").json()["received"] == 5
    assert put(client, place, 5, b"56789").json()["state"] == "detecting"
    file = SourceFile.objects.get()
    assert storage.source_path(file).read_bytes() == b"0123456789"
    assert DataWork.objects.get(kind="detect").file == file


def test_who_lost_the_connection_asks_how_much_arrived_and_goes_on(client: Client, dataset: Dataset) -> None:
    place = begin(client, dataset, modified=5).json()["content"]
    put(client, place, 0, b"0123")
    assert client.get(place).json()["received"] == 4
    again = begin(client, dataset, modified=5).json()
    assert (again["content"], again["received"]) == (place, 4)
    assert put(client, place, 4, b"456789").json()["state"] == "detecting"


def test_another_file_of_the_same_name_is_not_taken_for_the_rest(client: Client, dataset: Dataset) -> None:
    place = begin(client, dataset, modified=5).json()["content"]
    assert begin(client, dataset, modified=6).json()["content"] != place
    assert begin(client, dataset, size=11, modified=5).json()["content"] != place


@pytest.mark.parametrize("offset", [0, 3, 5])
def test_a_part_that_does_not_continue_the_file_is_told_where_to_begin(
    offset: int, client: Client, dataset: Dataset
) -> None:
    place = begin(client, dataset).json()["content"]
    put(client, place, 0, b"0123")
    answer = put(client, place, offset, b"xx")
    assert answer.status_code == 409
    assert answer.json()["error"]["received"] == 4
    assert storage.source_path(SourceFile.objects.get()).read_bytes() == b"0123"


@pytest.mark.parametrize("part", [b"", b"01234567890", b"x" * (MAX_BODY_BYTES + 1)])
def test_a_part_of_a_wrong_size_is_refused(part: bytes, client: Client, dataset: Dataset) -> None:
    place = begin(client, dataset).json()["content"]
    assert put(client, place, 0, part).status_code in (400, 413)
    assert SourceFile.objects.get().received == 0


@pytest.mark.parametrize("offset", ["", "-1", "1e3", "９", "9" * 30])
def test_an_offset_that_is_no_number_is_refused(offset: str, client: Client, dataset: Dataset) -> None:
    place = begin(client, dataset).json()["content"]
    assert put(client, place, offset, b"0").json()["error"]["code"] == "bad_request"


def test_a_connection_that_breaks_within_a_part_loses_only_that_part(
    client: Client, dataset: Dataset
) -> None:
    place = begin(client, dataset).json()["content"]
    put(client, place, 0, b"0123")
    with pytest.raises(UserError) as caught:
        uploads.receive_chunk(file=SourceFile.objects.get(), offset=4, length=6, body=io.BytesIO(b"45"))
    assert caught.value.code == "chunk_short"
    assert client.get(place).json()["received"] == 4


def test_a_part_is_on_the_disk_before_the_row_says_that_it_arrived(
    client: Client, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = begin(client, dataset).json()["content"]
    path = storage.source_path(SourceFile.objects.get())
    synced: list[tuple[bytes, int]] = []

    def sync(_: int) -> None:
        synced.append((path.read_bytes(), SourceFile.objects.get().received))

    monkeypatch.setattr(os, "fsync", sync)
    put(client, place, 0, b"0123")
    put(client, place, 4, b"456789")
    assert synced == [(b"0123", 0), (b"0123456789", 4)]


def test_where_a_file_lies_is_on_the_disk_before_its_row_is(
    client: Client, dataset: Dataset, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = note_synced(monkeypatch)
    begin(client, dataset)
    file = storage.source_path(SourceFile.objects.get())
    for path in itertools.takewhile(lambda above: above != home, (file, *file.parents)):
        assert path.name in synced[path.parent]


def test_what_the_machine_lost_when_its_power_failed_is_sent_again(client: Client, dataset: Dataset) -> None:
    place = begin(client, dataset).json()["content"]
    put(client, place, 0, b"01234567")
    path = storage.source_path(SourceFile.objects.get())
    os.truncate(path, 3)
    # The page that was open all the while is told where to go on, and one that is opened afterwards begins there.
    answer = put(client, place, 8, b"89")
    assert (answer.status_code, answer.json()["error"]["received"]) == (409, 3)
    assert put(client, place, 3, b"34").json()["received"] == 5
    os.truncate(path, 4)
    assert client.get(place).json()["received"] == 4
    assert put(client, place, 4, b"4").json()["received"] == 5
    path.unlink()
    assert begin(client, dataset).json()["received"] == 0
    assert put(client, place, 0, b"0123456789").json()["state"] == "detecting"
    assert path.read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    ("size", "code"), [(0, "file_empty"), (-1, "file_empty"), (uploads.MAX_FILE_BYTES + 1, "file_too_large")]
)
def test_empty_and_enormous_files_are_refused(size: int, code: str, client: Client, dataset: Dataset) -> None:
    answer = begin(client, dataset, size=size)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert not SourceFile.objects.exists()


def test_a_file_the_disk_has_no_room_for_is_refused_before_it_is_sent(
    client: Client, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda: uploads.RESERVED_BYTES + 3_000_000)
    answer = begin(client, dataset, size=4_200_000)
    assert answer.status_code == 507
    assert "needs 4.2 MB" in answer.json()["error"]["message"]
    assert "room for 3 MB" in answer.json()["error"]["message"]


def test_a_disk_that_fills_up_keeps_what_has_arrived(
    client: Client, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = begin(client, dataset).json()["content"]
    put(client, place, 0, b"0123")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads, "_copy", full)
    answer = put(client, place, 4, b"45")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert client.get(place).json()["received"] == 4


def test_files_that_arrive_together_leave_free_what_everything_else_needs(
    client: Client, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = uploads.RESERVED_BYTES + 10
    monkeypatch.setattr(storage, "free_bytes", lambda: free)
    place, _other = (begin(client, dataset, name).json()["content"] for name in ("a", "b"))
    put(client, place, 0, b"0123")
    free = uploads.RESERVED_BYTES + 5
    answer = put(client, place, 4, b"456789")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert "go on later" in answer.json()["error"]["message"]
    assert client.get(place).json()["received"] == 4
    assert storage.source_path(SourceFile.objects.get(name="a")).read_bytes() == b"0123"
    free = uploads.RESERVED_BYTES + 6
    assert put(client, place, 4, b"456789").json()["state"] == "detecting"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\eve\\chat.csv", "chat.csv"),
        ("a\x00b\nc.txt", "abc.txt"),
        ("x" * 400, "x" * 255),
        ("/", "unnamed"),
    ],
)
def test_a_name_is_only_a_label(name: str, label: str, client: Client, dataset: Dataset, home: Path) -> None:
    assert begin(client, dataset, name).status_code == 201
    file = SourceFile.objects.get()
    assert file.name == label
    on_disk = [path for path in home.rglob("*") if path.is_file()]
    assert on_disk == [home / "datasets" / str(dataset.pk) / "sources" / str(file.pk)]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"name": 5, "size": 5}',
        '{"name": "a", "size": true}',
        '{"name": "\\ud800", "size": 1}',
    ],
)
def test_what_is_no_announcement_of_a_file_is_refused(body: str, client: Client, dataset: Dataset) -> None:
    answer = client.post(f"/data/{dataset.pk}/files/", body, content_type="application/json")
    assert answer.status_code == 400


def test_a_dataset_has_only_so_many_files(
    client: Client, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_FILES", 2)
    assert begin(client, dataset, "a").status_code == begin(client, dataset, "b").status_code == 201
    assert begin(client, dataset, "c").json()["error"]["code"] == "too_many_files"


def test_a_removed_file_is_gone_from_the_disk_and_takes_no_more_parts(
    client: Client, dataset: Dataset, django_capture_on_commit_callbacks: Any
) -> None:
    begun = begin(client, dataset).json()
    path = storage.source_path(SourceFile.objects.get())
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(begun["remove"]).status_code == 302
    assert not path.exists()
    assert put(client, begun["content"], 0, b"0").status_code == 404


def test_a_file_cannot_go_while_it_is_being_read(client: Client, source: SourceFile) -> None:
    work.begin_work(dataset=source.dataset, kind="report", parameters={})
    answer = client.post(f"/data/files/{source.pk}/remove/", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "dataset_busy")
    assert SourceFile.objects.filter(pk=source.pk).exists()


def test_uploads_nobody_goes_on_with_are_given_up(
    client: Client, dataset: Dataset, django_capture_on_commit_callbacks: Any
) -> None:
    begin(client, dataset, "old")
    begin(client, dataset, "new")
    old = SourceFile.objects.get(name="old")
    SourceFile.objects.filter(pk=old.pk).update(received_at=timezone.now() - uploads.ABANDONED * 1.1)
    with django_capture_on_commit_callbacks(execute=True):
        uploads.remove_abandoned()
    assert [file.name for file in SourceFile.objects.all()] == ["new"]
    assert not storage.source_path(old).exists()


def test_parts_need_the_token_of_our_own_pages(dataset: Dataset, alice: User, workspace: Workspace) -> None:
    file = uploads.begin_upload(dataset=dataset, name="a", size=10)
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert put(client, f"/data/files/{file.pk}/content", 0, b"0").status_code == 403
