"""Every address of the data pages, asked by each of the cast: owner and admin may, everybody else finds nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from training import services, storage, urls
from training.datasets.recipe import Recipe
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db
LogIn = Callable[[User], Client]

PAGES = ("datasets", "dataset", "dataset_files", "dataset_file", "dataset_file_content", "dataset_report")
PAGES += ("problems_jsonl", "problems_csv", "dataset_clean", "dataset_versions", "version_split", "data_work")
ACTS = {
    "dataset_rename": {"name": "Taken over"},
    "dataset_delete": {},
    "dataset_file_remove": {},
    "version_delete": {},
    "data_work_cancel": {},
    # Also pages:
    "dataset_file": {"layout": "csv", "shape": "chat", "encoding": "utf-8", "delimiter": ","},
    "dataset_report": {"model": "", "max_tokens": "0"},
    "dataset_clean": {"freeze": "1"},
    "dataset_files": {},
}

OF_DATA = [pattern for pattern in urls.urlpatterns if str(pattern.pattern).startswith("data/")]


@pytest.fixture
def paths(dataset: Dataset, source: SourceFile, report: DataWork, alice: User) -> dict[str, str]:
    version = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice)
    DatasetVersion.objects.update(state="ready")
    folder = storage.version_folder(version)
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("{}\n")
    parts: dict[str, object] = {
        "dataset_id": dataset.pk,
        "file_id": source.pk,
        "version_id": version.pk,
        "work_id": version.work_id,
        "split": "train",
    }
    return {
        str(pattern.name): reverse(
            str(pattern.name), kwargs={name: parts[name] for name in pattern.pattern.converters}
        )
        for pattern in OF_DATA
    }


def rows() -> list[object]:
    return [
        sorted(Dataset.objects.values_list("pk", "name")),
        sorted(SourceFile.objects.values_list("pk", "reading__shape")),
        sorted(DatasetVersion.objects.values_list("pk")),
        sorted(DataWork.objects.values_list("pk", "state", "cancel_requested")),
    ]


def test_no_address_is_missing_here() -> None:
    assert {pattern.name for pattern in OF_DATA} == {*PAGES, *ACTS}


@pytest.mark.parametrize("who", ["alice", "dora"])
def test_owners_and_admins_see_every_page(
    who: str, paths: dict[str, str], dora: User, request: pytest.FixtureRequest, logged_in: LogIn
) -> None:
    client = logged_in(request.getfixturevalue(who))
    assert {name: client.get(paths[name]).status_code for name in PAGES} == dict.fromkeys(PAGES, 200)


@pytest.mark.parametrize("who", ["bob", "charlie"])
def test_members_and_outsiders_find_nothing_and_change_nothing(
    who: str,
    paths: dict[str, str],
    elsewhere: Workspace,
    request: pytest.FixtureRequest,
    logged_in: LogIn,
) -> None:
    client = logged_in(request.getfixturevalue(who))
    before = rows()
    of_one = [name for name in PAGES if name != "datasets"]
    assert {name: client.get(paths[name]).status_code for name in of_one} == dict.fromkeys(of_one, 404)
    assert {name: client.post(paths[name], body).status_code for name, body in ACTS.items()} == dict.fromkeys(
        ACTS, 404
    )
    assert client.put(paths["dataset_file_content"] + "?offset=0", b"x").status_code == 404
    assert rows() == before


def test_a_member_finds_no_list_and_no_link_to_it(workspace: Workspace, bob: User, logged_in: LogIn) -> None:
    client = logged_in(bob)
    assert client.get("/data/").status_code == 404
    assert client.post("/data/", {"name": "Mine"}).status_code == 404
    assert "/data/" not in client.get("/").content.decode()
    assert not Dataset.objects.exists()


def test_an_outsiders_own_list_shows_only_their_own(
    dataset: Dataset, elsewhere: Workspace, charlie: User, logged_in: LogIn
) -> None:
    page = logged_in(charlie).get("/data/")
    assert page.status_code == 200
    assert "Support" not in page.content.decode()


def test_strangers_are_asked_to_log_in(paths: dict[str, str]) -> None:
    for name in {*PAGES, *ACTS}:
        answer = Client().get(paths[name]) if name in PAGES else Client().post(paths[name])
        assert answer.status_code == 302, name
        assert answer.headers["Location"].startswith("/accounts/login/"), name


def test_what_does_not_exist_answers_like_what_is_not_yours(
    paths: dict[str, str], alice: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    for name in PAGES:
        path = paths[name]
        for key in set(path.split("/")):
            if len(key) == 36:
                path = path.replace(key, str(uuid.uuid4()))
        if name != "datasets":
            assert client.get(path).status_code == 404, name


def test_data_of_another_workspace_cannot_be_compared_with(
    paths: dict[str, str], elsewhere: Workspace, charlie: User, logged_in: LogIn
) -> None:
    own = services.create_dataset(user=charlie, workspace=elsewhere, name="Own")
    version = DatasetVersion.objects.get()
    answer = logged_in(charlie).post(f"/data/{own.pk}/report/", {"evaluation": str(version.pk)})
    assert answer.status_code in (400, 409)
    assert not own.work.exists()


def test_a_download_is_only_ever_one_of_the_three_splits(
    paths: dict[str, str], alice: User, logged_in: LogIn
) -> None:
    client, path = logged_in(alice), paths["version_split"]
    assert b"".join(client.get(path)) == b"{}\n"
    for split in ("manifest", "other", "..", "%2e%2e%2fmanifest"):
        assert client.get(path.replace("train.jsonl", f"{split}.jsonl")).status_code == 404
