"""How a file is read, corrected by a person on its page: what it holds is then shown, mapped and checked so."""

from __future__ import annotations

import html
import re
from pathlib import Path

import msgspec
import pytest
from django.test import Client

from tests.training.data_pages.conftest import LogIn, Seen
from tests.training.datasets.files import Read, archive, read, workbook, xlsx
from tests.training.datasets.records import chat
from training import forms, storage, tasks
from training.datasets import sources
from training.datasets.examples import LabelledExample
from training.models import Dataset, SourceFile
from webapp.accounts.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(alice: User, logged_in: LogIn) -> Client:
    return logged_in(alice)


TICKETS = [
    ["Where is my order?", "delivery"],
    ["I was charged twice.", "billing"],
    ["Never came.", "delivery"],
    ["It is broken.", "delivery"],
    ["Pay me back.", "billing"],
]
CSV = "".join(f"{text},{label}\n" for text, label in TICKETS).encode()


def as_shown(client: Client, file: SourceFile) -> dict[str, str]:
    """What the form of how a file is read would send if nobody changed it."""
    page = client.get(f"/data/files/{file.pk}/").content.decode()
    fields = {}
    for name, inside in re.findall(r'<select name="([^"]+)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected>', inside)
        fields[name] = chosen[1] if chosen else ""
    for tag in re.findall(r"<input [^>]+>", page):
        if 'type="checkbox"' in tag and " checked" in tag:
            fields[re.findall(r'name="([^"]+)"', tag)[0]] = "on"
    return fields


def read_as_saved(file: SourceFile, folder: Path) -> Read:
    file.refresh_from_db()
    reading = msgspec.convert(file.reading, sources.Reading)
    return read(folder, sources.Source(storage.source_path(file), file.name, reading))


FAQ = "questão,resposta\nOnde está a minha encomenda?,Já foi enviada.\nQual é o preço?,São 10 €.\n"


def save(client: Client, file: SourceFile, **corrected: str) -> None:
    """Says so on its page, where nothing has to be looked at for that."""
    answer = client.post(f"/data/files/{file.pk}/", as_shown(client, file) | corrected)
    assert answer.status_code == 302
    assert not file.work.filter(state="queued").exists()


def look_again(client: Client, file: SourceFile, **corrected: str) -> str:
    """Says so on its page, waits as the page does, and gives what it shows then."""
    address = f"/data/files/{file.pk}/"
    fields = as_shown(client, file) | corrected
    answer = client.post(address, fields)
    assert (answer.status_code, answer["Location"]) == (302, address)
    waiting = client.get(address).content.decode()
    looking = file.work.get(kind="detect", state="queued")
    assert f'data-refresh="/data/work/{looking.pk}/" data-then="reload"' in waiting
    assert '<form method="post" class="card stack" id="reading"' not in waiting
    # With another header the columns are called otherwise by now.
    assert client.post(address, fields).status_code == (400 if "header" in corrected else 409)
    assert "data-busy" in client.get(f"/data/work/{looking.pk}/").content.decode()
    tasks.run(str(looking.pk))
    assert "data-busy" not in client.get(f"/data/work/{looking.pk}/").content.decode()
    file.dataset.work.filter(
        kind="report", state="queued"
    ).delete()  # the first check, which begins by itself
    file.refresh_from_db()
    return client.get(address).content.decode()


def test_rows_and_columns_are_those_of_the_encoding_that_a_person_chose(
    client: Client, seen: Seen, tmp_path: Path
) -> None:
    file = seen("faq.csv", FAQ.encode("cp1252"))
    was = {"layout": "csv", "shape": "prompt_completion", "encoding": "cp1250"}
    wrong = {"prompt": "questăo", "completion": "resposta"}
    SourceFile.objects.filter(pk=file.pk).update(
        reading=was | {"columns": wrong},
        detected=file.detected | {"columns": list(wrong.values()), "rows": [{"questăo": "Onde estă"}]},
    )
    page = look_again(client, file, encoding="cp1252")
    assert '<td dir="auto">Onde está a minha encomenda?</td>' in page
    assert "questăo" not in page
    # It is the same column, called as it really is.
    shown = as_shown(client, file)
    assert (shown["prompt_completion.prompt"], shown["prompt_completion.completion"]) == (
        "questão",
        "resposta",
    )
    assert read_as_saved(file, tmp_path / "read").examples == [
        chat("Onde está a minha encomenda?", "Já foi enviada."),
        chat("Qual é o preço?", "São 10 €."),
    ]


def test_a_list_of_examples_within_an_object_is_told_and_stays_the_one_that_is_read(
    client: Client, dataset: Dataset, seen: Seen, tmp_path: Path
) -> None:
    file = seen(
        "faq.json", b'{"of": "May", "items": [{"Q": "Where?", "A": "Here."}, {"Q": "When?", "A": "Now."}]}'
    )
    told = "Its examples are those of the list “items”."
    assert told in html.unescape(client.get(f"/data/{dataset.pk}/").content.decode())
    save(
        client,
        file,
        shape="prompt_completion",
        **{"prompt_completion.prompt": "A", "prompt_completion.completion": "Q"},
    )
    assert read_as_saved(file, tmp_path / "read").examples == [chat("Here.", "Where?"), chat("Now.", "When?")]
    assert "Here." in look_again(client, file, encoding="cp1252")
    assert file.reading is not None
    assert (file.reading["within"], file.reading["encoding"]) == ("items", "cp1252")


def test_columns_that_no_longer_exist_are_no_longer_chosen_and_that_is_said(
    client: Client, dataset: Dataset, seen: Seen, tmp_path: Path
) -> None:
    file = seen("faq.csv", b"id,ticket;thema\n1,Wo ist sie?;Lieferung\n2,Zu teuer, leider.;Preis\n")
    assert file.reading is not None
    SourceFile.objects.filter(pk=file.pk).update(
        reading={"layout": "csv", "shape": "labelled", "columns": {"text": "ticket;thema", "label": "id"}},
        detected=file.detected | {"columns": ["id", "ticket;thema"], "header": True},
    )
    page = look_again(client, file, delimiter=";")
    assert "It has no column called ticket;thema, id any more: check which field is which." in page
    assert '<option value="ticket;thema"' not in page
    assert '<option value="id,ticket"' in page
    # A mapping that is right then stays, whatever else is corrected, and nothing is looked at for that.
    chosen = {"labelled.text": "id,ticket", "labelled.label": "thema"}
    assert client.post(f"/data/files/{file.pk}/", as_shown(client, file) | chosen).status_code == 302
    assert not file.work.filter(state="queued").exists()
    assert "any more: check which field" not in client.get(f"/data/files/{file.pk}/").content.decode()
    assert read_as_saved(file, tmp_path / "read").examples == [
        LabelledExample("1,Wo ist sie?", ["Lieferung"]),
        LabelledExample("2,Zu teuer, leider.", ["Preis"]),
    ]


def test_a_sheet_is_chosen_among_those_there_are_and_its_own_columns_are_shown(
    client: Client, seen: Seen, tmp_path: Path
) -> None:
    asked = [["question", "answer"], ["Where is it?", "On its way."]]
    file = seen("support.xlsx", workbook({"Tickets": [["text", "label"], *TICKETS], "FAQ": asked}))
    page = client.get(f"/data/files/{file.pk}/").content.decode()
    assert "Only the sheet Tickets is read, and not FAQ." in page
    assert re.findall(r'<option value="([^"]*)"( selected)?>(Tickets|FAQ)<', page) == [
        ("Tickets", " selected", "Tickets"),
        ("FAQ", "", "FAQ"),
    ]
    page = look_again(client, file, sheet="FAQ", shape="prompt_completion")
    assert '<th scope="col">question</th>' in page
    assert "On its way." in page
    assert "Only the sheet" not in page
    assert read_as_saved(file, tmp_path / "read").examples == [chat("Where is it?", "On its way.")]
    assert as_shown(client, file)["sheet"] == "FAQ"


def test_a_column_with_a_dot_in_its_name_stays_chosen(client: Client, seen: Seen, tmp_path: Path) -> None:
    first = [["id", "q.text", "q.label"], *([str(n), *ticket] for n, ticket in enumerate(TICKETS))]
    file = seen("tickets.xlsx", workbook({"May": first, "June": [row[1:] for row in first]}))
    chosen = {"shape": "labelled", "labelled.text": "q.text", "labelled.label": "q.label"}
    assert client.post(f"/data/files/{file.pk}/", as_shown(client, file) | chosen).status_code == 302
    page = look_again(client, file, sheet="June")
    assert "any more: check which field" not in page
    assert as_shown(client, file) | chosen == as_shown(client, file)
    assert read_as_saved(file, tmp_path / "read").examples == [
        LabelledExample(text, [label]) for text, label in TICKETS
    ]


def test_a_file_that_cannot_be_read_as_a_person_says_says_why_and_can_be_corrected_again(
    client: Client, dataset: Dataset, seen: Seen
) -> None:
    file = seen("tickets.csv", b"text,label\nHello,greeting\nBye,farewell\n")
    page = look_again(client, file, layout="parquet")
    assert file.state == SourceFile.State.UNREADABLE
    assert "The file is damaged" in page
    assert as_shown(client, file)["layout"] == "parquet"
    # The same again is looked at again, too.
    look_again(client, file)
    assert file.state == SourceFile.State.UNREADABLE
    page = look_again(client, file, layout="csv", shape="labelled")
    assert file.state == SourceFile.State.READY
    assert '<td dir="auto">greeting</td>' in page


@pytest.mark.parametrize("is_named", [False, True])
def test_a_table_without_names_in_its_first_row_is_read_whole_once_that_is_said(
    is_named: bool, client: Client, seen: Seen, tmp_path: Path
) -> None:
    file = seen("tickets.xlsx", xlsx(TICKETS)) if is_named else seen("tickets.csv", CSV)
    fields = as_shown(client, file)
    assert ("header" in fields) == is_named
    # A correction of something else leaves it as it was.
    assert client.post(f"/data/files/{file.pk}/", fields | {"labelled.group": ""}).status_code == 302
    assert len(read_as_saved(file, tmp_path / "other").examples) == 5 - is_named

    # Of a sheet, more may be seen without: it is looked at again.
    say = look_again if is_named else save
    say(client, file, header="")
    assert read_as_saved(file, tmp_path / "without").examples == [
        LabelledExample(text, [label]) for text, label in TICKETS
    ]
    shown = as_shown(client, file)
    assert (shown["labelled.text"], shown["labelled.label"]) == ("column 1", "column 2")
    page = client.get(f"/data/files/{file.pk}/").content.decode()
    assert '<th scope="col">column 1</th>' in page
    assert '<td dir="auto">Where is my order?</td>' in page

    say(client, file, header="on")
    shown = as_shown(client, file)
    assert (shown["labelled.text"], shown["labelled.label"]) == ("Where is my order?", "delivery")
    assert len(read_as_saved(file, tmp_path / "named").examples) == 4


def test_a_title_above_a_sheets_columns_is_shown_where_it_is_read(
    client: Client, seen: Seen, tmp_path: Path
) -> None:
    file = seen("tickets.xlsx", xlsx([["All tickets"], ["text", "label"], *TICKETS]))
    assert "All tickets" not in client.get(f"/data/files/{file.pk}/").content.decode()
    page = look_again(client, file, header="")
    assert '<td dir="auto">All tickets</td>' in page
    shown = as_shown(client, file)
    assert (shown["labelled.text"], shown["labelled.label"]) == ("column 1", "column 2")
    assert len(read_as_saved(file, tmp_path / "without").examples) == 7

    page = look_again(client, file, header="on")
    assert "All tickets" not in page
    shown = as_shown(client, file)
    assert (shown["labelled.text"], shown["labelled.label"]) == ("text", "label")


def test_a_separator_that_only_the_file_names_stays_when_its_page_is_saved(
    client: Client, seen: Seen, tmp_path: Path
) -> None:
    file = seen("tickets.csv", b"sep=:\ntext:label\nWhere, my friend?:delivery\nToo much:billing\n")
    page = client.get(f"/data/files/{file.pk}/").content.decode()
    assert '<option value=":" selected>“:”</option>' in page
    save(client, file)
    assert read_as_saved(file, tmp_path / "read").examples == [
        LabelledExample("Where, my friend?", ["delivery"]), LabelledExample("Too much", ["billing"]),
    ]  # fmt: skip


def test_a_first_line_that_names_no_possible_separator_names_none(seen: Seen) -> None:
    for name, line in (("a.csv", b'sep="\n'), ("b.csv", b"sep=\r\r\n")):
        file = seen(name, line + b"text,label\nHello,greeting\nBye,farewell\n")
        assert file.reading is not None
        assert file.reading.get("delimiter", ",") == ","


def test_a_column_with_a_dot_in_its_name_is_still_there_after_another_look(
    client: Client, seen: Seen
) -> None:
    rows: list[list[object]] = [
        ["id", "q.text", "q.label"],
        *([n, *ticket] for n, ticket in enumerate(TICKETS)),
    ]
    file = seen("asked.xlsx", workbook({"May": rows, "June": [[*row, "x"] for row in rows]}))
    chosen = {"shape": "labelled", "labelled.text": "q.text", "labelled.label": "q.label"}
    save(client, file, **chosen)
    page = look_again(client, file, sheet="June")
    assert "any more: check which field" not in page
    shown = as_shown(client, file)
    assert (shown["labelled.text"], shown["labelled.label"]) == ("q.text", "q.label")


def test_of_a_layout_only_what_it_has_is_offered_and_kept(client: Client, seen: Seen) -> None:
    file = seen("tickets.zip", archive({"tickets.csv": b"text,label\nHello,greeting\nBye,farewell\n"}))
    page = client.get(f"/data/files/{file.pk}/").content.decode()
    offered = dict(re.findall(r'name="(\w+)"[^>]*data-layouts="([^"]+)"', page))
    assert set(offered) == {"encoding", "delimiter", "sheet", "header"}
    assert not any("zip" in layouts.split() for layouts in offered.values())
    given = as_shown(client, file) | {"encoding": "cp1252", "delimiter": ";", "sheet": "Two"}
    assert client.post(f"/data/files/{file.pk}/", given).status_code == 302
    file.refresh_from_db()
    assert file.reading == {
        "layout": "zip", "shape": "labelled", "columns": {"text": "text", "label": "label"},
    }  # fmt: skip


def test_a_part_that_need_not_be_there_can_be_said_to_be_missing(
    client: Client, seen: Seen, tmp_path: Path
) -> None:
    file = seen("asked.csv", b"prompt,completion,system\nHello?,Hi.,12\nBye?,Bye.,13\n")
    shown = as_shown(client, file)
    assert shown["prompt_completion.system"] == "system"
    for required, status in (("prompt_completion.prompt", 400), ("prompt_completion.system", 302)):
        answer = client.post(f"/data/files/{file.pk}/", shown | {required: forms.NOT_THERE})
        assert answer.status_code == status
    file.refresh_from_db()
    assert file.reading is not None
    assert file.reading["columns"]["system"] == ""
    assert as_shown(client, file)["prompt_completion.system"] == forms.NOT_THERE
    assert read_as_saved(file, tmp_path / "read").examples == [chat("Hello?", "Hi."), chat("Bye?", "Bye.")]


@pytest.mark.parametrize(
    "wrong", [{"layout": "exe"}, {"shape": "magic"}, {"encoding": "rot13"}, {"delimiter": "xx"}]
)
def test_a_correction_that_makes_no_sense_is_refused(
    wrong: dict[str, str], client: Client, source: SourceFile
) -> None:
    usual = {"layout": "csv", "shape": "labelled", "encoding": "utf-8", "delimiter": ","}
    assert client.post(f"/data/files/{source.pk}/", usual | wrong).status_code == 400
    source.refresh_from_db()
    assert not source.is_corrected
