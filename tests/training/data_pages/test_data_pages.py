"""What the data pages show and take: lists, formats and their correction, reports, recipes, versions."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import get_args

import msgspec
import pytest
from django.test import Client
from django.utils import timezone

from inference.models import ServedModel
from tests.training.data_pages.conftest import LogIn, Seen
from tests.training.datasets.files import pdf
from tests.training.job_pages.rows import make_base, make_job
from training import charts, forms, services, storage, tasks, work
from training.datasets import personal, shapes, sources
from training.datasets.recipe import Augment, Recipe, Split
from training.datasets.report import Histogram, PreviewToken, Report
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db
INLINE = re.compile(
    r"<style|\sstyle=|<script(?![^>]*(?:\ssrc=|type=\"application/json\"))|\son[a-z]+=\"|javascript:"
)
EVIL = "<img src=x onerror=alert(1)>\"'</script>"


@pytest.fixture
def client(alice: User, logged_in: LogIn) -> Client:
    return logged_in(alice)


def test_an_empty_list_says_what_it_is_for_and_a_dataset_is_made_there(
    client: Client, workspace: Workspace
) -> None:
    assert "Teach the model what your company knows" in client.get("/data/").content.decode()
    assert client.post("/data/", {"name": "  Support\x07  tickets "}).status_code == 302
    assert Dataset.objects.get().name == "Support tickets"
    page = client.get("/data/").content.decode()
    assert "Support tickets" in page
    assert "Teach the model" not in page


@pytest.mark.parametrize("name", ["", "   ", "\x07", "x" * 121])
def test_a_dataset_needs_a_name(name: str, client: Client, dataset: Dataset) -> None:
    assert client.post("/data/", {"name": name}).status_code == 400
    assert client.post(f"/data/{dataset.pk}/rename/", {"name": name}).status_code == 400
    assert Dataset.objects.get().name == "Support"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: None, "not checked"),
        (lambda d: d.files.update(state="uploading"), "uploading"),
        (lambda d: services.start_report(dataset=d), "Checking the data"),
        (
            lambda d: (services.start_report(dataset=d), d.work.update(state="running", done=1, total=4)),
            "Checking the data 25 %",
        ),
        (lambda d: (services.start_report(dataset=d), d.work.update(state="failed")), "failed"),
        (lambda d: (services.start_report(dataset=d), d.work.update(state="ready")), "checked"),
    ],
)
def test_the_list_says_in_a_word_how_each_dataset_is(
    change: Callable[[Dataset], object], word: str, client: Client, dataset: Dataset, source: SourceFile
) -> None:
    change(dataset)
    shown = re.findall(
        r'<span class="status-word"><span class="dot[^"]*"></span> ([^<]+)<',
        client.get("/data/").content.decode(),
    )
    assert shown == [word]


def test_a_page_goes_on_asking_although_a_file_was_looked_at_while_it_was_made(
    client: Client, dataset: Dataset, source: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.files.update(state="detecting")
    unfinished = work.unfinished

    def found(dataset: Dataset) -> DataWork | None:
        """As of now; and then a worker has looked at the file, and begun to check the data."""
        monkeypatch.undo()
        going = unfinished(dataset)
        dataset.files.update(state="ready")
        services.start_report(dataset=dataset)
        return going

    monkeypatch.setattr(work, "unfinished", found)
    page = client.get(f"/data/{dataset.pk}/").content.decode()
    assert "data-busy" in page


def test_columns_of_which_nothing_is_learnt_are_named_until_somebody_says_what_they_are(
    client: Client, source: SourceFile
) -> None:
    source.detected = {"reason": "", "columns": ["id", "text", "label", "<b>mood"], "rows": []}
    source.save()
    page = client.get(f"/data/files/{source.pk}/").content.decode()
    assert "These fields are not used:" in page
    assert "<bdi>id, &lt;b&gt;mood</bdi>" in page
    services.correct_reading(
        file=source,
        reading=sources.Reading(
            "jsonl", "labelled", columns={"text": "text", "label": "<b>mood", "group": "id"}
        ),
    )
    page = client.get(f"/data/files/{source.pk}/").content.decode()
    assert "<bdi>label</bdi>" in page


def test_how_a_file_is_read_is_shown_with_its_first_rows_and_can_be_corrected(
    client: Client, source: SourceFile, report: DataWork
) -> None:
    page = client.get(f"/data/files/{source.pk}/").content.decode()
    assert '<td dir="auto">greeting</td>' in page
    correction = {
        "layout": "csv", "shape": "translation", "encoding": "cp1252", "delimiter": "\t", "header": "on",
        "translation.source": "text", "translation.target": "label", "labelled.text": "label",
    }  # fmt: skip
    assert client.post(f"/data/files/{source.pk}/", correction).status_code == 302
    source.refresh_from_db()
    assert source.reading == {
        "layout": "csv", "shape": "translation", "encoding": "cp1252", "delimiter": "\t",
        "columns": {"source": "text", "target": "label"},
    }  # fmt: skip
    assert "corrected" in client.get(f"/data/{source.dataset_id}/").content.decode()
    # What was checked is no longer what would be read.
    assert "files have changed" in client.get(f"/data/{source.dataset_id}/report/").content.decode()
    answer = client.post(f"/data/{source.dataset_id}/clean/", recipe_fields(freeze="1"))
    assert answer.status_code == 409


def test_what_a_person_should_know_of_how_a_file_is_read_is_said_where_they_see_it(
    client: Client, dataset: Dataset, seen: Seen
) -> None:
    lying = seen("asked.csv", b'{"prompt": "Hello?", "completion": "Hi."}\n' * 3)
    guessed = seen(
        "asked.jsonl", b'{"Kundenfrage": "Wo ist meine Bestellung?", "Bereich": "Lieferung"}\n' * 9
    )
    honest = seen("fair.jsonl", b'{"prompt": "Hello?", "completion": "Hi."}\n')
    lie = "The name ends in .csv, but the file is JSON Lines."
    guess = "This is a guess by what the fields hold: check which field is which."
    table = client.get(f"/data/{dataset.pk}/").content.decode()
    assert (table.count(lie), table.count(guess)) == (1, 1)
    for file, said in ((lying, [lie]), (guessed, [guess]), (honest, [])):
        page = client.get(f"/data/files/{file.pk}/").content.decode()
        assert re.findall(r'<p class="notice" role="status">([^<]+)</p>', page) == said


def test_a_file_that_is_there_twice_is_said_to_be(client: Client, dataset: Dataset, seen: Seen) -> None:
    files = [seen(name, b'{"prompt": "Hello?", "completion": "Hi."}\n') for name in ("a.jsonl", "b.jsonl")]
    seen("c.jsonl", b'{"prompt": "Hello?", "completion": "Hi!"}\n')
    said = re.compile("This is the same file as ([^:]+): remove one of them.")
    assert said.findall(client.get(f"/data/{dataset.pk}/").content.decode()) == ["a.jsonl"]
    client.post(f"/data/files/{files[0].pk}/remove/")
    assert said.findall(client.get(f"/data/{dataset.pk}/").content.decode()) == []


@pytest.mark.django_db(transaction=True)
def test_characters_that_a_database_has_no_place_for_cost_neither_look_nor_report(
    client: Client, dataset: Dataset, seen: Seen
) -> None:
    rows = [{"text": f"a\0b {n}", "label": "x\0y", "odd\0name": "c"} for n in range(9)]
    file = seen("a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    table = seen("b.csv", "te\0xt,Gr\xfc\xdfe,label\n".encode("latin-1") + "Süß,a,b\n".encode() * 30)
    made = services.start_report(dataset=dataset)
    tasks.run(str(made.pk))
    made.refresh_from_db()
    assert (made.state, made.error_message) == ("ready", "")
    assert made.result is not None
    assert "x\ufffdy" in [count["name"] for count in made.result["labels"]]
    assert r"\x00" not in repr([made.result, *((each.detected, each.reading) for each in (file, table))])
    for page in (f"/data/files/{file.pk}/", f"/data/files/{table.pk}/", f"/data/{dataset.pk}/report/"):
        answer = client.get(page)
        assert (answer.status_code, b"\0" in answer.content) == (200, False)


def test_letters_and_signs_of_every_script_are_shown_whole(
    client: Client, dataset: Dataset, seen: Seen
) -> None:
    texts = ["👩‍👩‍👧 👍🏽", "می‌خواهم", "क्‍ष", "שלום‏!", "ありがとう 谢谢"]
    file = seen(
        "a.jsonl", "".join(json.dumps({"text": text, "label": text}) + "\n" for text in texts).encode()
    )
    page = client.get(f"/data/files/{file.pk}/").content.decode()
    assert [text for text in texts if page.count(f'<td dir="auto">{text}</td>') != 2] == []


def test_every_part_of_every_shape_can_be_corrected() -> None:
    assert {shape: set(fields) - {"group"} for shape, fields in forms.FIELDS.items()} == {
        shape: set(fields) for shape, fields in shapes.FIELDS.items()
    }
    assert set(forms.LAYOUTS) == set(get_args(sources.Layout))
    assert set(forms.PERSONAL_DATA) == set(personal.KINDS)


def test_a_report_shows_problems_by_code_and_the_places_of_one(client: Client, report: DataWork) -> None:
    address = f"/data/{report.dataset_id}/report/"
    page = client.get(address).content.decode()
    assert "1,200" in page
    assert page.count('class="problem"') == 10
    assert "tickets.jsonl</bdi> · line 11" in client.get(f"{address}?page=2").content.decode()
    page = client.get(f"{address}?code=empty_text").content.decode()
    assert page.count('class="problem"') == 1
    assert "There is no text." in page
    for odd in ("page=0", "page=-1", "page=x", "page=99999", "code=nothing"):
        assert client.get(f"{address}?{odd}").status_code == 200


def test_a_report_says_how_many_labels_there_are_besides_those_it_lists(
    client: Client, report: DataWork
) -> None:
    labels = [{"name": f"label {n}", "count": 90 - n} for n in range(50)]
    report.result |= {"more_labels": 1200, "labels": labels}  # type: ignore[operator]
    report.save()
    page = client.get(f"/data/{report.dataset_id}/report/").content.decode()
    assert "And 1,200 other labels." in page
    # The first are seen, and hold up nobody who wants what comes after them.
    before, _, behind = page.partition("<summary>20 more labels</summary>")
    assert (before.count("<bdi>label "), behind.split("</details>")[0].count("<bdi>label ")) == (30, 20)


def test_a_report_shows_what_is_in_the_data_and_says_what_it_cannot_see(
    client: Client, report: DataWork
) -> None:
    page = client.get(f"/data/{report.dataset_id}/report/").content.decode()
    sections = {
        name: " ".join(re.sub(r"<[^>]+>", " ", content).split())
        for name, content in re.findall(
            r'<section[^>]*aria-labelledby="(\w+)"[^>]*>(.*?)</section>', page, re.S
        )
    }
    assert sections["languages"] == "Languages en 900 82 % de 200 18 %"
    assert sections["labels"] == "Labels greeting 700 64 % farewell 400 36 %"
    assert "Email addresses 12 1 %" in sections["personal"]
    assert (
        "Looked for by their form: Email addresses, Telephone numbers, Card numbers, Bank accounts (IBAN), Social "
        "security numbers (US), IP addresses, Keys and tokens. Names, postal addresses, other numbers of people and "
        "what a sentence gives away are not seen here"
    ) in sections["personal"]
    assert "10 in the middle, 11 on average, 95 % have at most 22, the longest 39." in sections["lengths"]
    assert "Learnt is what stands beside the text; its own tokens are all context." in sections["lengths"]
    assert " % of all tokens" not in sections["lengths"]
    assert "0 – 10 500 10 – 20 500 20 – 40 100" in sections["lengths"]
    (chart,) = re.findall(r'<figure class="chart stack".*?<svg.*?</svg>', page, re.S)
    assert chart.count('class="rect') == 3


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("chat", "50 % of all tokens are learnt; the others are context."),
        ("preference", "Counted is each prompt with its better answer, which is 50 % of all tokens."),
    ],
)
def test_a_report_says_how_many_of_the_tokens_are_learnt(
    kind: str, said: str, client: Client, report: DataWork
) -> None:
    found = msgspec.structs.replace(
        msgspec.convert(report.result, Report), kind=kind, trained_tokens=6000, labels=[]
    )
    DataWork.objects.filter(pk=report.pk).update(result=msgspec.to_builtins(found))
    page = client.get(f"/data/{report.dataset_id}/report/").content.decode()
    assert said in page
    assert ("There is no training yet for data of this kind." in page) == (kind == "preference")


def test_a_report_says_what_learning_it_will_take_where_jobs_like_it_have_ended(
    client: Client, alice: User, workspace: Workspace, report: DataWork
) -> None:
    base = make_base()
    ServedModel.objects.filter(pk=base.pk).update(name="demo")  # whose tokens the report counts
    address = f"/data/{report.dataset_id}/report/"
    assert "with the usual settings" not in client.get(address).content.decode()
    # Ten tokens a second; of 1,100 examples of eleven, four fifths are learnt from, in three epochs.
    now = timezone.now()
    make_job(
        workspace, alice, base, None, task="classification", state="succeeded", attempt=1, finished_at=now,
        started_at=now - timedelta(seconds=1000), step=10, epoch=1.0, data={"tokens": 10_000}, memory=3_000_000_000,
    )  # fmt: skip
    said = (
        "Fine-tune: About 48 minutes and 3 GB of memory with the usual settings, as 1 job like it took here."
    )
    assert said in client.get(address).content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_file_that_cannot_be_read_is_a_problem_of_the_report_and_one_that_comes_later_makes_it_old(
    client: Client, dataset: Dataset, seen: Seen
) -> None:
    address = f"/data/{dataset.pk}/report/"

    def check() -> str:
        tasks.run(str(services.start_report(dataset=dataset).pk))
        return client.get(address).content.decode()

    seen("good.jsonl", b'{"prompt": "Hello?", "completion": "Hi."}\n')
    assert "No problems found" in check()
    seen("locked.pdf", pdf(["Hello there"], password="secret"))
    assert "The files have changed since this check" in client.get(address).content.decode()
    page = check()
    assert "The files have changed since this check" not in page
    assert "No problems found" not in page
    assert "Encrypted file" in page
    assert "locked.pdf</bdi>" in page
    assert "The PDF is locked with a password." in page
    assert "Save it without a password and upload that." in page
    assert b"".join(client.get(f"{address}problems.csv")).count(b"encrypted_file,error,locked.pdf") == 1
    seen("empty.txt", b"")
    assert "Empty file" in check()


def test_all_problems_can_be_downloaded_and_a_spreadsheet_runs_none_of_them(
    client: Client, report: DataWork
) -> None:
    address = f"/data/{report.dataset_id}/report/problems"
    lines = b"".join(client.get(f"{address}.jsonl")).splitlines()
    assert len(lines) == 91
    assert json.loads(lines[0])["line"] == 1
    rows = list(
        csv.DictReader(
            io.StringIO(b"".join(client.get(f"{address}.csv?code=empty_text")).decode("utf-8-sig"))
        )
    )
    assert [(row["file"], row["line"]) for row in rows] == [("'=cmd()", "200")]


def test_a_report_whose_files_are_gone_still_shows_its_counts(
    client: Client, report: DataWork, home: object
) -> None:
    storage.remove_folder(storage.work_folder(report))
    assert client.get(f"/data/{report.dataset_id}/report/").status_code == 200
    assert b"".join(client.get(f"/data/{report.dataset_id}/report/problems.jsonl")) == b""


def test_what_is_learnt_is_marked_by_more_than_colour(client: Client, report: DataWork) -> None:
    page = client.get(f"/data/{report.dataset_id}/report/").content.decode()
    assert "<span>user: hi</span><mark>hello</mark>" in page
    assert "Struck through" not in page
    found = msgspec.convert(report.result, Report)
    lost = [PreviewToken("well", False, lost=True), PreviewToken("bye", True, lost=True)]
    found.too_long, found.previews = 1, [lost]
    DataWork.objects.filter(pk=report.pk).update(result=msgspec.to_builtins(found))
    page = client.get(f"/data/{report.dataset_id}/report/").content.decode()
    assert '<span class="lost">well</span><mark class="lost">bye</mark>' in page
    assert "Struck through: too long" in page


def test_a_check_asks_for_a_model_that_is_there(client: Client, dataset: Dataset, source: SourceFile) -> None:
    assert client.post(f"/data/{dataset.pk}/report/", {"model": "absent"}).status_code == 400
    assert client.post(f"/data/{dataset.pk}/report/", {"max_tokens": "-1"}).status_code == 400
    assert not dataset.work.exists()
    assert client.post(f"/data/{dataset.pk}/report/", {"model": "", "max_tokens": ""}).status_code == 302
    assert dataset.work.get().parameters["max_tokens"] == 0


@pytest.mark.parametrize("state", ["uploading", "detecting", "unreadable"])
def test_files_that_are_not_there_yet_are_not_checked(
    state: str, client: Client, dataset: Dataset, source: SourceFile
) -> None:
    dataset.files.update(state=state)
    assert client.post(f"/data/{dataset.pk}/report/", {}).status_code == 409
    assert not dataset.work.exists()


def recipe_fields(**more: str) -> dict[str, str]:
    usual = {
        "missing": "keep", "deduplicate": "near", "too_long": "keep", "max_tokens": "0", "copies": "2", "swap": "20",
        "delete": "0", "typo": "0", "validation": "5", "test": "15", "augment": "on", "redact": "email",
    }  # fmt: skip
    return usual | more


def test_the_switches_become_a_recipe_and_stand_as_they_were(
    client: Client, dataset: Dataset, report: DataWork
) -> None:
    assert client.post(f"/data/{dataset.pk}/clean/", recipe_fields(count="1")).status_code == 302
    preview = dataset.work.get(kind="preview")
    assert msgspec.convert(preview.parameters["recipe"], Recipe) == Recipe(
        repair_unicode=False, normalise_unicode="", whitespace=False, missing="keep", drop_empty=False,
        redact=["email"], deduplicate="near", drop_overlap=False,
        augment=Augment(copies=2, swap=0.2, delete=0.0), split=Split(validation=0.05, test=0.15),
    )  # fmt: skip
    effects = [{"step": "deduplicate", "changed": 0, "dropped": 1234, "added": 0, "samples": [["a", ""]]}]
    dataset.work.filter(pk=preview.pk).update(state="ready", result=effects, finished_at=preview.created_at)
    page = client.get(f"/data/{dataset.pk}/clean/").content.decode()
    assert "1,234 left out" in page
    assert re.search(r'name="validation" value="5"', page)
    assert re.search(r'value="email"[^>]*checked', page)


@pytest.mark.parametrize("asked", ["count", "freeze"])
def test_switches_stay_as_they_were_set_though_the_work_was_cancelled_or_failed(
    asked: str, client: Client, dataset: Dataset, report: DataWork
) -> None:
    client.post(f"/data/{dataset.pk}/clean/", recipe_fields(**{asked: "1"}))
    doing = dataset.work.get(state="queued")
    if asked == "count":
        client.post(f"/data/work/{doing.pk}/cancel/")
    else:
        assert work.end_work(work=doing, expected="queued", state="failed", error_message="The disk is full.")
    page = client.get(f"/data/{dataset.pk}/clean/").content.decode()
    assert re.search(r'name="validation" value="5"', page)
    assert re.search(r'value="email"[^>]*checked', page)
    assert "Not counted yet" in page


def test_switches_that_were_frozen_though_others_had_been_counted_are_said_to_be_others(
    client: Client, dataset: Dataset, report: DataWork
) -> None:
    client.post(f"/data/{dataset.pk}/clean/", recipe_fields(count="1"))
    dataset.work.filter(kind="preview").update(state="ready", result=[], finished_at=timezone.now())
    page = client.get(f"/data/{dataset.pk}/clean/").content.decode()
    assert "counted with the switches as they stand below" in page
    client.post(f"/data/{dataset.pk}/clean/", recipe_fields(freeze="1", validation="7"))
    dataset.work.filter(kind="freeze").update(state="cancelled")
    page = client.get(f"/data/{dataset.pk}/clean/").content.decode()
    assert re.search(r'name="validation" value="7"', page)
    assert "counted with other switches than those below" in page


def test_what_cannot_be_begun_beside_something_else_is_said_on_the_form_and_nothing_entered_is_lost(
    client: Client, dataset: Dataset, source: SourceFile, report: DataWork
) -> None:
    services.start_report(dataset=dataset)
    answer = client.post(f"/data/{dataset.pk}/clean/", recipe_fields(count="1"))
    assert answer.status_code == 409
    assert "Something is being done with this dataset." in answer.content.decode()
    assert re.search(r'name="validation" value="5"', answer.content.decode())
    answer = client.post(
        f"/data/files/{source.pk}/",
        {"layout": "csv", "shape": "document", "encoding": "cp1252", "delimiter": ";"},
    )
    assert answer.status_code == 409
    assert "Something is being done with this dataset." in answer.content.decode()
    assert re.search(r'value="cp1252" selected', answer.content.decode())
    # A check has nothing to lose: who pressed twice sees the first one.
    address = f"/data/{dataset.pk}/report/"
    answer = client.post(address, {}, headers={"Referer": f"http://testserver{address}"}, follow=True)
    assert answer.redirect_chain == [(address, 302)]
    assert "Something is being done with this dataset." in answer.content.decode()
    assert "data-busy" in answer.content.decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"validation": "50", "test": "45"},
        {"validation": "-1"},
        {"too_long": "drop"},
        {"missing": "fill", "missing_fill": " "},
        {"redact": "name"},
        {"copies": "1000"},
        {"deduplicate": "all"},
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_with_its_reason(
    wrong: dict[str, str], client: Client, dataset: Dataset, report: DataWork
) -> None:
    answer = client.post(f"/data/{dataset.pk}/clean/", recipe_fields(freeze="1", **wrong))
    assert answer.status_code == 400
    assert "field-error" in answer.content.decode()
    assert not DatasetVersion.objects.exists()


def test_a_version_shows_what_each_step_did_and_says_where_that_had_not_been_counted(
    client: Client, dataset: Dataset, report: DataWork
) -> None:
    address, said = f"/data/{dataset.pk}/", "had not been counted"
    effect = {"step": "deduplicate", "changed": 0, "dropped": 1234, "added": 0, "samples": [["secret", ""]]}
    assert "Not counted yet" in client.get(f"{address}clean/").content.decode()

    def frozen(**switches: str) -> str:
        """The page of versions afterwards."""
        assert client.post(f"{address}clean/", recipe_fields(freeze="1", **switches)).status_code == 302
        assert said not in client.get(f"{address}versions/").content.decode()  # it may come to nothing
        dataset.work.update(state="ready")
        dataset.versions.filter(state="building").update(state="ready", manifest={"effects": [effect]})
        page = client.get(f"{address}versions/").content.decode()
        assert "secret" not in page
        return page

    page = frozen()
    assert page.count("1,234 left out") == 1
    assert f"Version 1 was frozen with switches whose effects {said}" in page
    client.post(f"{address}clean/", recipe_fields(count="1"))
    dataset.work.filter(kind="preview").update(state="ready", result=[effect], finished_at=timezone.now())
    page = client.get(f"{address}clean/").content.decode()
    assert "Not counted yet" not in page
    hint = 'id="uncounted" role="status" hidden'
    assert hint in page
    refused = client.post(f"{address}clean/", recipe_fields(freeze="1", validation="-1"))
    assert (refused.status_code, hint in refused.content.decode()) == (400, False)
    assert said not in frozen()
    assert f"Version 3 was frozen with switches whose effects {said}" in frozen(deduplicate="exact")


def test_what_only_a_program_says_of_a_recipe_stays_as_it_said_it(
    client: Client, dataset: Dataset, report: DataWork
) -> None:
    recipe = Recipe(augment=Augment(seed=7), split=Split(salt="pepper"))
    preview = services.start_preview(dataset=dataset, recipe=recipe)
    dataset.work.filter(pk=preview.pk).update(state="ready", result=[], finished_at=timezone.now())
    client.post(f"/data/{dataset.pk}/clean/", recipe_fields(freeze="1"))
    frozen = msgspec.convert(dataset.versions.get().recipe, Recipe)
    assert frozen.augment is not None
    assert (frozen.augment.seed, frozen.split.salt) == (7, "pepper")


@pytest.mark.django_db(transaction=True)
def test_splits_with_nothing_in_them_are_told_before_freezing_and_where_a_fine_tune_begins(
    client: Client, dataset: Dataset, seen: Seen
) -> None:
    said = (
        "No example is held back for validation",
        "No example is held back for the test",
        "Examples of one conversation or person",
    )
    lines = [{"prompt": f"Question {n}?", "completion": f"Answer {n}.", "group": "one"} for n in range(20)]
    seen("one.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    tasks.run(str(services.start_report(dataset=dataset).pk))

    def told(address: str, **switches: str) -> list[bool]:
        """After the switches are counted, or frozen."""
        if switches:
            assert client.post(f"/data/{dataset.pk}/clean/", recipe_fields(**switches)).status_code == 302
            tasks.run(str(dataset.work.get(state="queued").pk))
        page = client.get(address).content.decode()
        return [sentence in page for sentence in said]

    clean, versions = f"/data/{dataset.pk}/clean/", f"/data/{dataset.pk}/versions/"
    assert told(clean, count="1") == [True, True, True]
    assert "20 for training, 0 for validation, 0 for the test" in client.get(clean).content.decode()
    assert told(clean, count="1", test="0") == [True, False, True]
    assert told(versions, freeze="1") == told("/fine-tunes/new/") == [True, True, True]
    dataset.versions.update(validation=3, test=0)
    assert told(versions) == told("/fine-tunes/new/") == [False, True, True]
    dataset.versions.update(test=3)
    assert told(versions) == told("/fine-tunes/new/") == [False, False, False]


def test_versions_are_numbered_and_say_what_they_were_made_from(
    client: Client, dataset: Dataset, report: DataWork, alice: User
) -> None:
    for number in (1, 2):
        version = services.start_freeze(dataset=dataset, recipe=Recipe(), user=alice)
        assert (version.number, version.parent) == (number, report.parameters["sources"])
        DatasetVersion.objects.filter(pk=version.pk).update(state="ready", content_hash=str(number) * 64)
        dataset.work.update(state="ready")
    page = client.get(f"/data/{dataset.pk}/versions/").content.decode()
    assert page.index("Version 2") < page.index("Version 1")
    assert "2" * 64 in page
    assert version.parent in page


def test_a_histogram_is_drawn_without_code_and_without_colours_of_its_own() -> None:
    drawn = charts.histogram(Histogram([0, 8, 16, 1024], [3, 0, 1], 4, 5.0, 4.0, 9.0, 1000.0))
    assert drawn.startswith("<svg")
    assert drawn.count('class="rect') == 3
    assert not INLINE.search(drawn)
    assert "#" not in drawn
    assert charts.histogram(Histogram([0, 1], [0], 0, 0, 0, 0, 0)).startswith("<svg")


def test_no_page_runs_what_it_shows(
    client: Client, dataset: Dataset, source: SourceFile, report: DataWork
) -> None:
    Dataset.objects.update(name=EVIL)
    SourceFile.objects.update(name=EVIL, detected={"columns": [EVIL], "rows": [{EVIL: EVIL}], "reason": EVIL})
    DataWork.objects.create(
        dataset=dataset, kind="report", state="failed", error_message=EVIL, sent_at=report.sent_at
    )
    for page in (
        "/data/",
        *(f"/data/{dataset.pk}/{tab}" for tab in ("", "report/", "clean/", "versions/")),
        f"/data/files/{source.pk}/",
    ):
        shown = client.get(page).content.decode()
        assert "onerror" in shown, page
        assert "<img src=x" not in shown, page
        assert not INLINE.search(shown.replace("onerror=alert", "")), page
