"""/v1/datasets: files, report, effects and versions, as the pages of data have them; seen by owners and admins only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from tests.webapp.api.conftest import key_client
from tests.webapp.api.data_work import ORDERS, chat, jsonl, make_base, upload, uploaded, work
from training import data_worker, storage, tasks
from training import work as life
from training.datasets.frozen import read_manifest
from training.models import Dataset, DatasetVersion, DataWork
from webapp.accounts.models import Membership, Role, User, Workspace

pytestmark = pytest.mark.django_db
FAULTY = jsonl([*(chat(n) for n in range(40)), chat(3), chat(3), {"prompt": 1}, {"messages": []}])


@pytest.fixture(autouse=True)
def home(settings: Settings, tmp_path: Path) -> Path:
    settings.FLYWHEEL_HOME = tmp_path
    return tmp_path


def refused(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def post(client: Client, path: str, body: Any = None) -> Any:
    return client.post(
        f"/v1/datasets{path}", body if body is not None else {}, content_type="application/json"
    )


def add(client: Client, dataset: str, content: bytes = FAULTY, name: str = "orders.jsonl") -> Any:
    return client.post(f"/v1/datasets/{dataset}/files", {"file": SimpleUploadedFile(name, content)})


@pytest.fixture
def dataset(alices: Client) -> str:
    """With a file that has been checked."""
    made = post(alices, "", {"name": "Orders"}).json()["id"]
    assert add(alices, made).status_code == 200
    work()
    return str(made)


def test_a_dataset_is_made_named_listed_and_deleted(alices: Client) -> None:
    made = [post(alices, "", {"name": f"Number {n}"}).json() for n in range(3)]
    assert made[0] | {"created_at": 0, "updated_at": 0} == {
        "id": made[0]["id"], "object": "dataset", "name": "Number 0", "created_at": 0, "updated_at": 0, "files": 0,
        "bytes": 0, "versions": 0, "work": None,
    }  # fmt: skip
    ids = [each["id"] for each in made]
    first = alices.get("/v1/datasets?limit=2").json()
    assert ([each["id"] for each in first["data"]], first["has_more"]) == (ids[:0:-1], True)
    rest = alices.get(f"/v1/datasets?after={first['last_id']}").json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (ids[:1], False)
    assert post(alices, f"/{ids[0]}", {"name": "Renamed"}).json()["name"] == "Renamed"
    assert alices.get(f"/v1/datasets/{ids[0]}").json()["name"] == "Renamed"
    assert refused(post(alices, "", {"name": " \n"})) == (400, "bad_name", None)
    assert refused(post(alices, "", {"name": "x", "colour": 1})) == (400, "unsupported_parameter", "colour")
    assert alices.delete(f"/v1/datasets/{ids[0]}").json() == {
        "id": ids[0], "object": "dataset", "deleted": True,
    }  # fmt: skip
    assert refused(alices.get(f"/v1/datasets/{ids[0]}")) == (404, "not_found", None)
    assert refused(alices.get("/v1/datasets?after=x")) == (400, "invalid_value", "after")


def test_a_report_tells_counts_histograms_and_each_problem(alices: Client, dataset: str) -> None:
    body = alices.get(f"/v1/datasets/{dataset}/report").json()
    assert (body["object"], body["is_current"], body["work"]["status"]) == ("dataset.report", True, "ready")
    found = body["found"]
    assert (found["kind"], found["examples"], found["usable"]) == ("chat", 44, 42)
    assert found["exact_duplicates"] == 2
    by_code = {each["code"]: each for each in found["problems"]}
    assert by_code["exact_duplicate"]["count"] == 2
    assert by_code["missing_messages_list"] == {
        "code": "missing_messages_list", "severity": "error", "count": 2,
    }  # fmt: skip
    problems = f"/v1/datasets/{dataset}/report/problems"
    whole = alices.get(problems).json()["data"]
    assert sum(each["count"] for each in found["problems"]) == len(whole)
    worst = alices.get(f"{problems}?code=missing_messages_list").json()["data"]
    assert (worst[0]["file"], worst[0]["line"], worst[0]["severity"]) == ("orders.jsonl", 43, "error")
    assert worst[0]["remedy"]
    paged: list[Any] = []
    after = ""
    while True:
        page = alices.get(f"{problems}?limit=2{after}").json()
        paged += page["data"]
        if not page["has_more"]:
            break
        after = f"&after={paged[-1]['id']}"
    assert paged == whole
    assert refused(alices.get(f"{problems}?after=x")) == (400, "invalid_value", "after")


def test_what_is_learnt_of_is_checked_again_with_other_eyes(alices: Client, dataset: str) -> None:
    make_base()
    assert refused(post(alices, f"/{dataset}/report", {"model": "gpt-9"})) == (
        404,
        "model_not_found",
        "model",
    )
    assert refused(post(alices, f"/{dataset}/report", {"evaluation": "version-0"}))[:2] == (404, "not_found")
    begun = post(alices, f"/{dataset}/report", {"max_tokens": 100}).json()
    assert (begun["work"]["status"], begun["is_current"]) == ("queued", True)
    assert refused(post(alices, f"/{dataset}/report")) == (409, "dataset_busy", None)
    assert alices.get(f"/v1/datasets/{dataset}").json()["work"] == "report"
    assert post(alices, f"/{dataset}/cancel").json()["work"] is None
    assert post(alices, f"/{dataset}/report").status_code == 200
    work()
    assert alices.get(f"/v1/datasets/{dataset}/report").json()["work"]["status"] == "ready"


def test_effects_are_counted_and_a_version_is_frozen_with_the_same_recipe(
    alices: Client, dataset: str
) -> None:
    recipe = {"deduplicate": "exact", "split": {"validation": 0.2, "test": 0.0}}
    counting = post(alices, f"/{dataset}/cleaning", {"recipe": recipe}).json()
    assert (counting["work"]["status"], counting["effects"]) == ("queued", None)
    work()
    effects = {
        each["step"]: each for each in alices.get(f"/v1/datasets/{dataset}/cleaning").json()["effects"]
    }
    assert effects["deduplicate"]["dropped"] == 2
    frozen = post(alices, f"/{dataset}/versions", {"recipe": recipe}).json()
    assert (frozen["status"], frozen["work"]["status"], frozen["number"]) == ("building", "queued", 1)
    work()
    version = alices.get(f"/v1/datasets/{dataset}/versions/{frozen['id']}").json()
    assert (version["status"], version["kind"], version["test"]) == ("ready", "chat", 0)
    assert version["train"] + version["validation"] == 40
    assert len(version["content_hash"]) == 64
    content = alices.get(f"/v1/datasets/{dataset}/versions/{frozen['id']}/content?split=train")
    assert len(b"".join(content).splitlines()) == version["train"]
    assert [each["id"] for each in alices.get(f"/v1/datasets/{dataset}/versions").json()["data"]] == [
        frozen["id"]
    ]

    # The same once more is the same version, under either id.
    again = post(alices, f"/{dataset}/versions", {"recipe": recipe}).json()
    assert again["id"] != frozen["id"]
    work()
    assert alices.get(f"/v1/datasets/{dataset}/versions/{again['id']}").json() == version
    assert DatasetVersion.objects.count() == 1

    model = make_base().name
    asked = {"model": model, "training_file": frozen["id"]}
    job = alices.post("/v1/fine_tuning/jobs", asked, content_type="application/json").json()
    path = f"/v1/datasets/{dataset}/versions/{frozen['id']}"
    assert refused(alices.delete(path))[:2] == (409, "version_in_use")
    assert refused(alices.delete(f"/v1/datasets/{dataset}"))[:2] == (409, "version_in_use")
    alices.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
    assert alices.delete(path).json()["deleted"]
    assert refused(alices.get(path)) == (404, "not_found", None)


def test_labels_without_end_are_in_the_versions_file_and_not_in_every_answer_of_it(
    alices: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_worker, "MOST_LABELS", 3)
    made = post(alices, "", {"name": "Tickets"}).json()["id"]
    add(alices, made, jsonl([{"text": f"Ticket {n}", "label": f"{n}"} for n in range(9)]), "tickets.jsonl")
    work()
    frozen = post(alices, f"/{made}/versions").json()["id"]
    work()
    version = alices.get(f"/v1/datasets/{made}/versions/{frozen}").json()
    assert (version["status"], version["labels"]) == ("ready", ["0", "1", "2"])
    folder = storage.version_folder(DatasetVersion.objects.get())
    assert read_manifest(folder).labels == [str(n) for n in range(9)]


def test_a_recipe_that_cannot_be_is_refused_field_by_field(alices: Client, dataset: str) -> None:
    for recipe, where in (
        ({"colour": 1}, "recipe"),
        ({"deduplicate": "all"}, "recipe.deduplicate"),
        ({"redact": ["soul"]}, "recipe.redact"),
        ({"split": {"validation": 0.9, "test": 0.9}}, "recipe.split"),
        ({"split": {"given": "0"}}, "recipe.split.given"),
        ({"too_long": "cut"}, "recipe.max_tokens"),
        ({"missing": "fill", "missing_fill": " "}, "recipe.missing_fill"),
        ({"max_tokens": -1}, "recipe.max_tokens"),
        ({"augment": {"copies": 99}}, "recipe.augment.copies"),
    ):
        for path in ("cleaning", "versions"):
            assert refused(post(alices, f"/{dataset}/{path}", {"recipe": recipe})) == (
                400, "invalid_value", where,
            )  # fmt: skip


def test_how_a_file_is_read_can_be_corrected(alices: Client) -> None:
    made = post(alices, "", {"name": "Tickets"}).json()["id"]
    rows = b"frage;thema\n" + b"".join(
        b"Wo ist Bestellung %d?;%s\n" % (n, b"ab"[n % 2 :][:1]) for n in range(30)
    )
    added = add(alices, made, rows, "tickets.csv").json()
    work()
    file = alices.get(f"/v1/datasets/{made}/files").json()["data"][0]
    assert (file["id"], file["columns"]) == (added["id"], ["frage", "thema"])
    assert file["rows"][0]["frage"] == "Wo ist Bestellung 0?"
    reading = {
        "layout": "csv",
        "shape": "labelled",
        "delimiter": ";",
        "columns": {"text": "thema", "label": "frage"},
    }
    path = f"/{made}/files/{file['id']}"
    assert post(alices, path, reading).json()["reading"]["columns"] == reading["columns"]
    assert not alices.get(f"/v1/datasets/{made}/report").json()["is_current"]
    assert post(alices, f"/{made}/report").status_code == 200
    work()
    found = alices.get(f"/v1/datasets/{made}/report").json()["found"]
    assert (found["kind"], len(found["labels"])) == ("labelled", 30)
    for wrong, where in (
        ({"shape": "poem"}, "shape"),
        ({"encoding": "utf-99"}, "encoding"),
        ({"columns": {"colour": "frage"}}, "columns"),
        ({"delimiter": "--"}, "delimiter"),
        ({"delimiter": '"'}, "delimiter"),
        ({"delimiter": "\n"}, "delimiter"),
    ):
        assert refused(post(alices, path, reading | wrong))[::2] == (400, where)


def test_a_file_that_nobody_could_look_at_says_so(alices: Client) -> None:
    """To a person who reads its dataset, to one who lists files, and of a job that was to learn from it."""
    make_base()
    sent = upload(alices).json()["id"]
    asked = {"training_file": sent, "model": "tiny"}
    job = alices.post("/v1/fine_tuning/jobs", asked, content_type="application/json").json()["id"]
    looking = DataWork.objects.get(kind="detect")
    for _ in range(life.MAX_CRASHES):
        assert life.claim_work(work_id=looking.id) is not None
        DataWork.objects.filter(id=looking.id).update(heartbeat_at=timezone.now() - life.LEASE * 1.1)
        tasks.reap()
    work()
    why = "This file could not be looked at."
    dataset = alices.get(f"/v1/files/{sent}").json()["dataset"]
    (file,) = alices.get(f"/v1/datasets/{dataset}/files").json()["data"]
    assert file["error"] == {"code": "unreadable_file", "message": why}
    assert alices.get(f"/v1/files/{sent}").json()["status_details"] == why
    failed = alices.get(f"/v1/fine_tuning/jobs/{job}").json()
    assert failed["status"] == "failed"
    assert failed["error"]["message"].endswith(f"orders.jsonl: {why}")


def test_files_are_added_to_a_dataset_and_a_wrong_form_is_refused(alices: Client, dataset: str) -> None:
    assert add(alices, dataset, ORDERS, "more.jsonl").json()["dataset"] == dataset
    assert alices.get(f"/v1/datasets/{dataset}").json()["files"] == 2
    answer = alices.post(f"/v1/datasets/{dataset}/files", {"purpose": "fine-tune"})
    assert refused(answer) == (400, "unsupported_parameter", "purpose")
    assert add(alices, "dataset-0").status_code == 404


def test_what_was_never_done_is_not_there(alices: Client) -> None:
    made = post(alices, "", {"name": "Empty"}).json()["id"]
    for path in ("report", "report/problems", "cleaning", f"versions/version-{'0' * 32}"):
        assert refused(alices.get(f"/v1/datasets/{made}/{path}")) == (404, "not_found", None)
    assert refused(post(alices, f"/{made}/report")) == (409, "no_files", None)
    assert refused(post(alices, f"/{made}/cleaning")) == (409, "report_first", None)
    assert refused(post(alices, f"/{made}/versions")) == (409, "report_first", None)


def test_a_freezing_that_fails_says_why(alices: Client, dataset: str) -> None:
    recipe = {"max_tokens": 1, "too_long": "drop"}  # and no model whose tokens they are
    frozen = post(alices, f"/{dataset}/versions", {"recipe": recipe}).json()["id"]
    work()
    version = alices.get(f"/v1/datasets/{dataset}/versions/{frozen}").json()
    assert (version["status"], version["work"]["error"]["code"]) == ("failed", "no_model")
    assert refused(alices.get(f"/v1/datasets/{dataset}/versions/{frozen}/content?split=train"))[0] == 404
    assert refused(alices.get(f"/v1/datasets/{dataset}/versions/{frozen}/content?split=x"))[0] == 400


def every_route(dataset: str, file: str, version: str) -> list[tuple[str, str, Any]]:
    one = f"/v1/datasets/{dataset}"
    reading = {"layout": "jsonl", "shape": "chat"}
    return [
        ("get", one, None), ("post", one, {"name": "x"}), ("delete", one, None), ("post", f"{one}/cancel", {}),
        ("get", f"{one}/files", None), ("post", f"{one}/files/{file}", reading),
        ("get", f"{one}/report", None), ("post", f"{one}/report", {}), ("get", f"{one}/report/problems", None),
        ("get", f"{one}/cleaning", None), ("post", f"{one}/cleaning", {}),
        ("get", f"{one}/versions", None), ("post", f"{one}/versions", {}),
        ("get", f"{one}/versions/{version}", None), ("delete", f"{one}/versions/{version}", None),
        ("get", f"{one}/versions/{version}/content?split=train", None),
    ]  # fmt: skip


def test_outsiders_and_members_have_no_datasets(
    alices: Client, bobs: Client, charlies: Client, client: Client, dataset: str, alice: User, workspace: Workspace,
    elsewhere: Workspace,
) -> None:  # fmt: skip
    post(alices, f"/{dataset}/cleaning")
    work()
    frozen = post(alices, f"/{dataset}/versions").json()["id"]
    work()
    file = alices.get(f"/v1/datasets/{dataset}/files").json()["data"][0]["id"]
    Membership.objects.create(workspace=elsewhere, user=alice, role=Role.OWNER)
    there = key_client(alice, elsewhere)  # Alice's own key, of another workspace
    training_only = key_client(alice, workspace, "training")
    for method, path, body in every_route(dataset, file, frozen):
        arguments = {"data": body, "content_type": "application/json"} if method == "post" else {}
        ask: Callable[[Client], Any] = lambda who: getattr(who, method)(path, **arguments)  # noqa: E731, B023
        for who in (charlies, there):
            assert refused(ask(who)) == (404, "not_found", None), (method, path)
        assert ask(bobs).status_code == 403
        assert refused(ask(training_only))[:2] == (403, "missing_scope")
        assert ask(client).status_code == 401
    assert add(charlies, dataset).status_code == 404
    for who, status in ((bobs, 403), (client, 401)):
        assert add(who, dataset).status_code == status
        assert who.get("/v1/datasets").status_code == status
        assert post(who, "", {"name": "x"}).status_code == status
    assert charlies.get("/v1/datasets").json()["data"] == []
    own = post(charlies, "", {"name": "own"}).json()["id"]
    assert refused(post(charlies, f"/{own}/files/{file}", {"layout": "jsonl", "shape": "chat"}))[0] == 404
    assert refused(charlies.get(f"/v1/datasets/{own}/versions/{frozen}"))[0] == 404
    assert Dataset.objects.filter(name="Orders").exists()
    assert DataWork.objects.filter(kind="freeze").count() == 1


def test_an_uploaded_file_has_its_report_here(alices: Client) -> None:
    file = uploaded(alices)
    dataset = alices.get(f"/v1/files/{file}").json()["dataset"]
    assert alices.get(f"/v1/datasets/{dataset}/report").json()["found"]["usable"] == 30
