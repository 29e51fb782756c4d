"""/v1/files: sent, looked at, listed in pages, fetched, deleted; and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from tests.synced import note_synced
from tests.webapp.api.conftest import key_client
from tests.webapp.api.data_work import ORDERS, chat, jsonl, make_base, upload, uploaded, work
from training import storage
from training.models import Dataset, DatasetVersion, Job, ResultFile, SourceFile
from webapp.accounts.models import Membership, Role, User, Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def home(settings: Settings, tmp_path: Path) -> Path:
    settings.FLYWHEEL_HOME = tmp_path
    return tmp_path


def refused(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def incoming() -> list[Path]:
    folder = storage.incoming_folder()
    return list(folder.iterdir()) if folder.is_dir() else []


def test_a_file_is_kept_looked_at_checked_and_given_back_as_it_was(alices: Client) -> None:
    answer = upload(alices)
    body = answer.json()
    assert (body["object"], body["status"], body["purpose"]) == ("file", "uploaded", "fine-tune")
    assert (body["bytes"], body["filename"]) == (len(ORDERS), "orders.jsonl")
    work()
    body = alices.get(f"/v1/files/{body['id']}").json()
    assert (body["status"], body["status_details"]) == ("processed", None)
    content = alices.get(f"/v1/files/{body['id']}/content")
    assert b"".join(content) == ORDERS
    assert content.headers["Content-Disposition"].startswith("attachment")
    assert not incoming()


def test_where_a_file_lies_is_on_the_disk_before_it_is_acknowledged(
    alices: Client, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = note_synced(monkeypatch)
    uploaded(alices)
    file = storage.source_path(SourceFile.objects.get())
    for path in itertools.takewhile(lambda above: above != home, (file, *file.parents)):
        assert path.name in synced[path.parent]


def test_what_is_wrong_with_a_file_is_told_with_file_and_line(alices: Client) -> None:
    faulty = uploaded(
        alices, ORDERS + jsonl([{"prompt": "no conversation"}]) + b'{"messages": [\n', "faulty.jsonl"
    )
    body = alices.get(f"/v1/files/{faulty}").json()
    assert body["status"] == "error"
    assert "faulty.jsonl, line 31: " in body["status_details"]
    assert "There are 2 such problems in all." in body["status_details"]
    nothing = uploaded(alices, b"\x89PNG\r\n\x1a\n" + b"\x00\x01" * 100, "picture.jsonl")
    body = alices.get(f"/v1/files/{nothing}").json()
    assert body["status"] == "error"
    assert body["status_details"]


def test_files_are_listed_in_pages_in_both_orders_and_by_purpose(
    alices: Client, workspace: Workspace
) -> None:
    made = [upload(alices, name=f"{n}.jsonl").json()["id"] for n in range(3)]
    job = Job.objects.create(
        workspace=workspace, name="x", spec={}, sent_at=timezone.now(), state="succeeded"
    )
    path = storage.result_path(job.id)
    path.parent.mkdir(parents=True)
    path.write_text("step,train_loss\n1,2.0\n")
    result = ResultFile.objects.create(job=job, size=path.stat().st_size)
    made.append(f"file-{result.id.hex}")

    def ids(query: str) -> tuple[list[str], bool]:
        body = alices.get(f"/v1/files?{query}").json()
        return [file["id"] for file in body["data"]], body["has_more"]

    assert ids("") == (made[::-1], False)
    assert ids("order=asc&limit=2") == (made[:2], True)
    assert ids(f"order=asc&limit=2&after={made[1]}") == (made[2:], False)
    assert ids(f"limit=1&after={made[3]}") == ([made[2]], True)
    assert ids("purpose=fine-tune") == (made[2::-1], False)
    assert ids("purpose=fine-tune-results") == ([made[3]], False)
    assert ids("purpose=batch") == ([], False)
    assert b"".join(alices.get(f"/v1/files/{made[3]}/content")) == path.read_bytes()
    assert alices.delete(f"/v1/files/{made[3]}").json() == {
        "id": made[3], "object": "file", "deleted": True,
    }  # fmt: skip
    assert refused(alices.get(f"/v1/files/{made[3]}")) == (404, "not_found", None)
    assert refused(alices.get("/v1/files?after=file-0")) == (400, "invalid_value", "after")
    for query in ("limit=0", "limit=99999", "order=up", "purpose=nonsense"):
        assert refused(alices.get(f"/v1/files?{query}"))[0] == 400


def test_a_deleted_file_goes_with_its_dataset(
    alices: Client, django_capture_on_commit_callbacks: Any
) -> None:
    file = SourceFile.objects.get(pk=uploaded(alices).removeprefix("file-"))
    path = storage.source_path(file)
    assert path.exists()
    with django_capture_on_commit_callbacks(execute=True):
        assert alices.delete(f"/v1/files/file-{file.pk.hex}").json()["deleted"]
    assert not Dataset.objects.exists()
    assert not path.exists()
    assert refused(alices.delete(f"/v1/files/file-{file.pk.hex}")) == (404, "not_found", None)


def test_of_a_dataset_that_people_made_only_the_file_goes(alices: Client, workspace: Workspace) -> None:
    uploaded(alices)
    Dataset.objects.update(is_for_file=False)
    file = SourceFile.objects.get()
    assert alices.delete(f"/v1/files/file-{file.pk.hex}").status_code == 200
    assert Dataset.objects.count() == 1


def test_a_file_that_a_job_needs_is_not_deleted(alices: Client, workspace: Workspace) -> None:
    file = uploaded(alices)
    asked = {"model": make_base().name, "training_file": file}
    created = alices.post("/v1/fine_tuning/jobs", asked, content_type="application/json").json()
    assert refused(alices.delete(f"/v1/files/{file}"))[:2] == (409, "file_in_use")
    work()
    assert DatasetVersion.objects.get().state == "ready"
    assert refused(alices.delete(f"/v1/files/{file}"))[:2] == (409, "version_in_use")
    assert alices.post(f"/v1/fine_tuning/jobs/{created['id']}/cancel").json()["status"] == "cancelled"
    assert alices.delete(f"/v1/files/{file}").status_code == 200
    assert alices.get(f"/v1/fine_tuning/jobs/{created['id']}").json()["training_file"] == file


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"purpose": "fine-tune"}, (400, "missing_required_parameter", "file")),
        ({"file": SimpleUploadedFile("a", b"x")}, (400, "missing_required_parameter", "purpose")),
        ({"purpose": "assistants"}, (400, "unsupported_value", "purpose")),
        ({"expires_after[anchor]": "created_at"}, (400, "unsupported_parameter", "expires_after")),
        ({"colour": "blue"}, (400, "unsupported_parameter", "colour")),
        ({"file": SimpleUploadedFile("a.jsonl", b"")}, (400, "file_empty", None)),
        ({"second": SimpleUploadedFile("b", b"x")}, (400, "one_file", "second")),
    ],
)
def test_a_form_that_is_not_as_it_has_to_be_leaves_nothing_behind(
    alices: Client, form: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    whole = {"purpose": "fine-tune", "file": SimpleUploadedFile("a.jsonl", ORDERS)}
    if len(form) == 1 and expected[1] == "missing_required_parameter":
        whole = {}
    for file in (whole | form).values():
        if isinstance(file, SimpleUploadedFile):
            file.seek(0)
    answer = alices.post("/v1/files", whole | form)
    assert refused(answer) == expected
    assert not Dataset.objects.exists()
    assert not incoming()


def test_a_file_over_the_limit_is_refused_and_leaves_nothing_behind(
    alices: Client, settings: Settings
) -> None:
    settings.API_MAX_UPLOAD_MB = 1
    assert refused(upload(alices, b"x" * (2**20 + 1)))[:2] == (413, "file_too_large")
    assert not incoming()
    assert refused(alices.post("/v1/files", {"a": 1}, content_type="application/json"))[:2] == (
        415, "unsupported_media_type",
    )  # fmt: skip
    torn = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    answer = alices.post("/v1/files", torn, content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 400
    assert not incoming()


def test_a_full_disk_is_said_and_nothing_is_left(alices: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.incoming._LOOK_EVERY", 10)
    monkeypatch.setattr(storage, "free_bytes", lambda: 2**20)
    assert refused(upload(alices))[:2] == (507, "disk_full")
    assert not incoming()


def test_a_name_is_a_label_and_never_a_path(alices: Client, home: Path) -> None:
    for name in ("../../etc/passwd", "C:\\evil\\x.jsonl", "a\x07b.jsonl", "名前.jsonl", "x" * 300):
        body = upload(alices, name=name).json()
        assert "/" not in body["filename"]
        assert "\\" not in body["filename"]
    stored = [path for path in home.rglob("*") if path.is_file()]
    assert len(stored) == 5
    for path in stored:
        assert SourceFile.objects.filter(pk=path.name).exists()


def test_a_file_whose_bytes_are_gone_from_the_disk_is_not_there(alices: Client) -> None:
    file = uploaded(alices)
    storage.source_path(SourceFile.objects.get()).unlink()
    assert refused(alices.get(f"/v1/files/{file}/content"))[:2] == (404, "not_found")


def test_an_upload_that_is_sent_again_with_its_key_is_kept_once(alices: Client) -> None:
    headers = {"Idempotency-Key": "once"}
    form = {"purpose": "fine-tune"}
    first, second = (
        alices.post("/v1/files", form | {"file": SimpleUploadedFile("a.jsonl", ORDERS)}, headers=headers)
        for _ in range(2)
    )
    assert first.json()["id"] == second.json()["id"]
    assert SourceFile.objects.count() == 1
    assert not incoming()


def test_outsiders_and_members_have_no_files(
    alices: Client, bobs: Client, charlies: Client, client: Client
) -> None:
    file = uploaded(alices)
    for ask in (
        lambda who: who.get(f"/v1/files/{file}"),
        lambda who: who.get(f"/v1/files/{file}/content"),
        lambda who: who.delete(f"/v1/files/{file}"),
    ):
        assert refused(ask(charlies))[:2] == (404, "not_found")
        assert ask(bobs).status_code == 403
        assert ask(client).status_code == 401
    assert charlies.get("/v1/files").json()["data"] == []
    assert refused(charlies.get(f"/v1/files?after={file}")) == (400, "invalid_value", "after")
    assert bobs.get("/v1/files").status_code == 403
    assert upload(bobs).status_code == 403
    assert upload(client).status_code == 401
    assert SourceFile.objects.count() == 1


def test_a_key_sees_nothing_of_its_persons_other_workspaces(
    alices: Client, alice: User, elsewhere: Workspace
) -> None:
    file = uploaded(alices)
    Membership.objects.create(workspace=elsewhere, user=alice, role=Role.OWNER)
    there = key_client(alice, elsewhere)
    assert refused(there.get(f"/v1/files/{file}"))[:2] == (404, "not_found")
    assert there.get("/v1/files").json()["data"] == []


def test_a_page_uploads_with_its_session(alice: User, workspace: Workspace) -> None:
    page = Client()
    page.force_login(alice)
    assert upload(page).status_code == 200


def test_more_examples_in_one_file_are_no_reason_to_wait_for_a_person(alices: Client) -> None:
    """The first check begins by itself, as it does on the pages."""
    file = uploaded(alices, jsonl(chat(n) for n in range(200)))
    assert alices.get(f"/v1/files/{file}").json()["status"] == "processed"
