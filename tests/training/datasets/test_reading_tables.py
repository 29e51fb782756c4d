"""Labelled texts, values and translations out of tables, and what is wrong with them."""

from __future__ import annotations

import datetime
import io
import json
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.training.datasets.files import Read, archive, jsonl, parquet, read, source, workbook, write, xlsx
from training.datasets import readers
from training.datasets.detect import detect
from training.datasets.examples import DocumentExample, LabelledExample, TranslationExample
from training.datasets.sources import Reading, Shape


def read_csv(folder: Path, content: str | bytes, **more: object) -> Read:
    reading = Reading("csv", "labelled", **more)  # type: ignore[arg-type]
    return read(folder, source(folder, content, "a.csv", reading))


def read_rows(folder: Path, shape: Shape, *rows: object, **columns: str) -> Read:
    return read(folder, source(folder, jsonl(rows), "a.jsonl", Reading("jsonl", shape, columns=columns)))


ROWS: list[dict[str, object]] = [
    {"text": "I like it", "label": "good", "user": "u1"},
    {"text": 'Line one\nand "two", with; all', "label": "bad", "user": "u2"},
]
EXPECTED = [LabelledExample(str(row["text"]), [str(row["label"])]) for row in ROWS]
TABLE: list[list[object]] = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
CSV = 'text,label,user\nI like it,good,u1\n"Line one\nand ""two"", with; all",bad,u2\n'


@pytest.mark.parametrize(
    ("content", "name", "lines"),
    [
        (CSV, "a.csv", [2, 3]),
        (CSV.replace(",", "\t"), "a.tsv", [2, 3]),
        (CSV.encode("utf-16"), "a.csv", [2, 3]),
        (xlsx(TABLE), "a.xlsx", [2, 3]),
        (parquet(ROWS), "a.parquet", [1, 2]),
        (jsonl(ROWS), "a.jsonl", [1, 2]),
    ],
    ids=["csv", "tsv", "utf-16", "xlsx", "parquet", "jsonl"],
)
def test_every_kind_of_table_gives_the_same_examples(
    tmp_path: Path, content: str | bytes, name: str, lines: list[int]
) -> None:
    done = read(tmp_path, source(tmp_path, content, name))

    texts = [
        example.text.replace("\t", ",") for example in done.examples if isinstance(example, LabelledExample)
    ]
    assert texts == [example.text for example in EXPECTED]
    assert [record.line for record in done.records] == lines
    assert [record.group for record in done.records] == ["u1", "u2"]
    assert done.problems == []


def test_a_person_says_which_column_is_which_and_which_is_not_there(tmp_path: Path) -> None:
    columns = {"text": "Frage", "label": "Thema", "group": "Kunde"}
    content = "Frage;Thema;Kunde;text\nWo?;Ort;k1;x\n"

    done = read_csv(tmp_path, content, delimiter=";", columns=columns)
    without = read_rows(tmp_path, "alpaca", {"instruction": "a", "input": "secret", "output": "b"}, input="")

    assert done.examples == [LabelledExample("Wo?", ["Ort"])]
    assert done.records[0].group == "k1"
    assert "secret" not in repr(without.examples)


def test_a_table_without_a_header_is_read_from_its_first_row(tmp_path: Path) -> None:
    columns = {"text": "column 2", "label": "column 1"}

    done = read_csv(tmp_path, "1,good\n0,bad\n", header=False, columns=columns)

    assert done.examples == [LabelledExample("good", ["1"]), LabelledExample("bad", ["0"])]
    assert done.records[0].line == 1


def test_the_sheet_that_is_asked_for_is_read_and_another_name_is_an_error(tmp_path: Path) -> None:
    content = xlsx(TABLE, title="Data")

    done = read(tmp_path, source(tmp_path, content, "a.xlsx", Reading("xlsx", "labelled", sheet="Data")))
    wrong = read(tmp_path, source(tmp_path, content, "a.xlsx", Reading("xlsx", "labelled", sheet="Other")))

    assert done.examples == EXPECTED
    assert wrong.codes == ["missing_column"]
    assert "Other" in wrong.problems[0].reason


def test_the_first_sheet_with_a_table_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    more = [["text", "label"], *[[f"text {n}", "good"] for n in range(100)]]
    cover = [["Everything"], ["we know"]]
    sheets = {"Cover": cover, "Title": [["All"]], "Lists": more, "Data": TABLE, "FAQ": more, "End": []}
    content = workbook(sheets, hidden=["Lists"])

    detected = detect(write(tmp_path, content), "a.xlsx")
    done = read(tmp_path, source(tmp_path, content, "a.xlsx"))

    assert detected.sheets == ["Data", "FAQ", "Cover", "Title", "Lists"]
    assert done.examples == EXPECTED
    assert [(p.code, p.severity, p.line) for p in done.problems] == [("other_sheets", "notice", 0)]
    assert done.problems[0].reason == "Only the sheet Data is read, and not FAQ, Cover, Title, Lists."


def test_a_column_of_many_texts_is_a_table_and_the_lines_of_a_cover_are_none(tmp_path: Path) -> None:
    texts = [["text"], *([f"The document number {n} is here."] for n in range(50))]
    legend = [["text", "label"], ["a", "b"]]
    cover = [[f"Line {n} of what we say of it"] for n in range(8)]
    table = [["text", "label"], *([f"Ticket {n}", "good" if n % 2 else "bad"] for n in range(9))]

    documents = detect(write(tmp_path, workbook({"Texts": texts, "Legend": legend})), "a.xlsx")
    labelled = detect(write(tmp_path, workbook({"About": cover, "Tickets": table})), "b.xlsx")

    assert documents.reading == Reading("xlsx", "document", sheet="Texts", columns={"text": "text"})
    assert documents.notices == ["Only the sheet Texts is read, and not Legend."]
    assert labelled.reading is not None
    assert (labelled.reading.sheet, labelled.reading.shape) == ("Tickets", "labelled")


def test_a_reading_that_names_no_sheet_is_of_the_first_with_anything_in_it_as_ever(tmp_path: Path) -> None:
    content = workbook({"Empty": [], "Cover": [["text"], ["Everything we know"]], "Data": TABLE})

    done = read(tmp_path, source(tmp_path, content, "a.xlsx", Reading("xlsx", "document")))

    assert done.problems[0].reason == "Only the sheet Cover is read, and not Data."
    assert [example.text for example in done.examples] == ["Everything we know"]  # type: ignore[attr-defined]


def test_a_sheet_with_nothing_in_it_is_said_to_be_empty_whatever_the_others_have(tmp_path: Path) -> None:
    content = workbook({"Data": TABLE, "Notes": []})

    done = read(tmp_path, source(tmp_path, content, "a.xlsx", Reading("xlsx", "labelled", sheet="Notes")))

    assert done.codes == ["other_sheets", "empty_file"]


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ({"label": 1}, ["1"]),
        ({"label": 1.0}, ["1"]),
        ({"label": True}, ["true"]),
        ({"label": ["a", "b"]}, ["a", "b"]),
        ({"labels": "a; b ;a"}, ["a", "b"]),
        ({"labels": "a|b, c"}, ["a", "b, c"]),
        ({"labels": '["a", "b"]'}, ["a", "b"]),
        ({"labels": []}, []),
        ({"labels": ""}, []),
    ],
)
def test_labels_are_read_in_every_way_they_are_written(
    tmp_path: Path, row: dict[str, object], labels: list[str]
) -> None:
    done = read_rows(tmp_path, "labelled", {"text": "x", **row})

    assert done.examples == [LabelledExample("x", labels)]
    assert done.problems == []


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        ("3.5", 3.5),
        (" 3,5 ", 3.5),
        ("-1e3", -1000.0),
        ("1,25", 1.25),
        ("1,2345", 1.2345),
        ("0,125", 0.125),
        ("-0,125", -0.125),
        (",125", 0.125),
        ("1234,567", 1234.567),
    ],
)
def test_values_are_numbers_however_they_are_written(tmp_path: Path, value: object, number: float) -> None:
    done = read_rows(tmp_path, "labelled", {"text": "x", "value": value})

    assert done.examples == [LabelledExample("x", value=number)]


@pytest.mark.parametrize("name", ["score", "label"])
def test_a_few_words_among_numbers_make_no_labels_of_them(tmp_path: Path, name: str) -> None:
    numbers = [str(n / 8) for n in range(1, 40)]
    rows = [{"text": f"Review {n}", name: number} for n, number in enumerate([*numbers, "n/a"])]
    words = [{"text": f"Review {n}", name: word} for n, word in enumerate(["good", "bad", "so so", "3"])]

    done = read(tmp_path, source(tmp_path, jsonl(rows), "a.jsonl"))
    labels = read(tmp_path, source(tmp_path, jsonl(words), "b.jsonl"))

    assert [example.value for example in done.examples] == [float(number) for number in numbers]  # type: ignore[attr-defined]
    assert [(problem.code, problem.line) for problem in done.problems] == [("bad_value", 40)]
    assert "guess" in "".join(detect(write(tmp_path, jsonl(rows)), "a.jsonl").notices)
    assert detect(write(tmp_path, jsonl(rows[:-1])), "a.jsonl").notices == []
    assert labels.examples[0] == LabelledExample("Review 0", ["good"])


@pytest.mark.parametrize(
    ("value", "ways"),
    [
        ("250,000", "250000 or 250.000"),
        ("1,234", "1234 or 1.234"),
        (" -12,500 ", "-12500 or -12.500"),
        ("+1,000", "+1000 or +1.000"),
    ],
)
def test_a_comma_that_may_be_between_thousands_or_a_decimal_one_is_not_guessed(
    tmp_path: Path, value: str, ways: str
) -> None:
    done = read_rows(tmp_path, "labelled", {"text": "x", "value": value})

    assert done.examples == []
    assert [(problem.code, problem.excerpt) for problem in done.problems] == [("bad_value", value.strip())]
    assert f"write {ways}." in done.problems[0].reason


@pytest.mark.parametrize(
    ("row", "code", "kept"),
    [
        ({"text": "x", "value": "many"}, "bad_value", False),
        ({"text": "x", "value": "nan"}, "bad_value", False),
        ({"text": "x", "value": "inf"}, "bad_value", False),
        ({"text": "x", "value": None}, "bad_value", False),
        ({"text": "x", "value": True}, "bad_value", False),
        ({"text": "x", "value": 10**400}, "bad_value", False),
        ({"text": "x", "label": {"a": 1}}, "bad_label", False),
        ({"text": "x", "label": "y" * 2000}, "bad_label", False),
        ({"text": "x", "labels": "[a"}, "bad_label", False),
        ({"text": "x", "label": ""}, "empty_field", True),
        ({"text": " ", "label": "y"}, "empty_field", True),
        ({"text": "", "label": ""}, "empty_example", False),
        ({"text": "x"}, "missing_column", False),
        ({"label": "y"}, "missing_column", False),
        ({"text": ["x"], "label": "y"}, "data_type", False),
        ({"text": True, "label": "y"}, "data_type", False),
    ],
)
def test_each_fault_of_a_labelled_text_has_its_code(
    tmp_path: Path, row: dict[str, object], code: str, kept: bool
) -> None:
    done = read_rows(tmp_path, "labelled", row)

    assert done.codes == [code]
    assert bool(done.examples) == kept


def test_translations_are_read_and_halves_of_them_kept_with_a_warning(tmp_path: Path) -> None:
    rows = [
        {"source": "Haus", "target": "house"},
        {"source": "Baum", "target": ""},
        {"source": "", "target": None},
    ]

    done = read_rows(tmp_path, "translation", *rows)
    nested = read(
        tmp_path, source(tmp_path, jsonl([{"translation": {"de": "Haus", "en": "house"}}]), "a.jsonl")
    )

    assert done.examples == [TranslationExample("Haus", "house"), TranslationExample("Baum", "")]
    assert [(problem.code, problem.line) for problem in done.problems] == [
        ("empty_field", 2),
        ("empty_example", 3),
    ]
    assert nested.examples == [TranslationExample("Haus", "house")]


def test_rows_that_do_not_fit_the_table_lose_only_themselves(tmp_path: Path) -> None:
    content = b"text,label\nfine,good\ntoo,many,fields\n\xff\xfe,bad\nfine,good\nshort\n"

    done = read_csv(tmp_path, content)

    assert [(problem.code, problem.line) for problem in done.problems] == [
        ("too_many_fields", 3),
        ("invalid_encoding", 4),
        ("missing_column", 6),
    ]
    assert [record.line for record in done.records] == [2, 5]


def test_quotation_marks_that_belong_to_the_texts_stay_there(tmp_path: Path) -> None:
    pairs = [
        ('"I am tired," she said.', '"Ich bin müde", sagte sie.'),
        ('"Stop!', '"Halt!'),
        ("Good night.", "Gute Nacht."),
        ('The "best" one.', 'Der "beste".'),
        ('Where?"', 'Wo?"'),
    ]
    content = "source\ttarget\n" + "".join(f"{source}\t{target}\n" for source, target in pairs)

    detected = detect(write(tmp_path, content), "a.tsv")
    done = read(tmp_path, source(tmp_path, content, "a.tsv"))

    assert detected.rows[0] == {"source": pairs[0][0], "target": pairs[0][1]}
    assert done.examples == [TranslationExample(*pair) for pair in pairs]
    assert done.problems == []


def test_a_mark_that_encloses_nothing_loses_its_own_line_and_no_other(tmp_path: Path) -> None:
    good = '"Quoted, with\nanother line",good\n'
    content = f'text,label\n{good}"open,good\n{good}fine,bad\n"shut" late,bad\n"open,"bad"\n{good}'

    done = read_csv(tmp_path, content + '"to the end,bad\nlast,good\n')

    assert [(problem.code, problem.line) for problem in done.problems] == [
        ("invalid_row", 4), ("invalid_row", 9), ("invalid_row", 12),
    ]  # fmt: skip
    assert [record.line for record in done.records] == [2, 5, 7, 8, 10, 13]
    assert done.examples[3] == LabelledExample("shut late", ["bad"])


@pytest.mark.parametrize("line", ["sep=|", "SEP=|", '"sep=|"'])
def test_excels_line_that_names_the_separator_is_no_row_of_the_table(tmp_path: Path, line: str) -> None:
    content = f"\ufeff{line}\r\ntext|label\r\nSo, is it; or not?|good\r\n"

    done = read(tmp_path, source(tmp_path, content, "a.csv"))

    assert done.examples == [LabelledExample("So, is it; or not?", ["good"])]
    assert done.records[0].line == 3
    assert done.problems == []


def test_a_quotation_mark_that_is_never_closed_takes_no_row_with_it_however_many_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.datasets.readers.table.MAX_LINE", 10_000)
    content = 'text,label\n"open,good\n' + "fine,good\n" * 3000 + '"fine",good\n'

    done = read_csv(tmp_path, content)

    assert [(problem.code, problem.line) for problem in done.problems] == [("invalid_row", 2)]
    assert [record.line for record in done.records] == [*range(3, 3004)]


@pytest.mark.parametrize(
    "rows", [[("word\nword, " * 30_000, "x")] * 2, [("word " * 60_000, "x"), ("b, c", "y")]]
)
def test_a_text_longer_than_what_is_looked_at_is_enclosed_as_the_others_are(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    content = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows)

    done = read(tmp_path, source(tmp_path, content, "a.csv"))

    assert [
        (each.text.strip(), each.labels) for each in done.examples if isinstance(each, LabelledExample)
    ] == [(text.strip(), [label]) for text, label in rows]
    assert done.problems == []


@pytest.mark.parametrize("row", ['"Hello, you" ,x\n', '"Hello, you"  ,"x" \r\n', '"Hello,\nyou" ,x\n'])
@pytest.mark.parametrize("clean", [0, 50])
def test_blanks_behind_a_closing_mark_cost_no_row(tmp_path: Path, row: str, clean: int) -> None:
    content = "text,label\n" + '"So, well",y\n' * clean + row * 20 + '"last, one",y'

    done = read_csv(tmp_path, content)

    found = [each for each in done.examples if isinstance(each, LabelledExample)]
    texts = [(" ".join(each.text.split()), each.labels) for each in found]
    expected = [("So, well", ["y"])] * clean + [("Hello, you", ["x"])] * 20 + [("last, one", ["y"])]
    assert texts == expected
    assert done.problems == []


def test_a_table_whose_rows_are_all_of_two_lines_tells_how_far_it_is(tmp_path: Path) -> None:
    content = "sep=,\ntext,label\n" + '"two\nlines",good\n' * 2_000

    told = [row.done for row in readers.read_rows(write(tmp_path, content), Reading("csv", "labelled"))]  # type: ignore[union-attr]

    assert len(set(told)) > 3
    assert told == sorted(told)


def test_two_cells_at_the_far_ends_of_a_sheet_do_not_make_it_a_billion_large(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(xlsx([["text", "label"], ["x", "y"]]))) as workbook:
        members = {name: workbook.read(name) for name in workbook.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    far = b'<row r="900000"><c r="XFD900000"><v>1</v></c></row></sheetData>'
    members[sheet] = members[sheet].replace(b"</sheetData>", far)

    done = read(tmp_path, source(tmp_path, archive(members), "a.xlsx", Reading("xlsx", "labelled")))

    assert done.examples == [LabelledExample("x", ["y"])]
    assert done.codes == ["too_many_fields"]


def test_macros_and_formulas_of_a_workbook_are_not_run_and_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    made = xlsx([["text", "label"], ["x", "y"], ['=HYPERLINK("http://example.org";A2)', "y"]])
    with zipfile.ZipFile(io.BytesIO(made)) as workbook:
        members = {name: workbook.read(name) for name in workbook.namelist()}
    with_macros = archive({**members, "xl/vbaProject.bin": b'Sub AutoOpen(): Shell "calc.exe": End Sub'})
    bomb = archive({**members, "xl/worksheets/sheet1.xml": bytes(100_000_000)})

    done = read(
        tmp_path,
        source(tmp_path, with_macros, "a.xlsm"),
        source(tmp_path, bomb, "b.xlsx", Reading("xlsx", "labelled")),
    )

    assert done.examples == [LabelledExample("x", ["y"])]
    assert [(problem.file, problem.line, problem.code) for problem in done.problems] == [
        ("a.xlsm", 3, "no_value"), ("b.xlsx", 0, "expands_too_much"),
    ]  # fmt: skip


def test_a_formula_without_its_value_and_an_error_are_told_and_not_learnt(tmp_path: Path) -> None:
    rows = [
        ["text", "label", "note"],
        ["one", "good", "#N/A"],
        ["=A2", "bad", ""],
        ["three", "#REF!", ""],
        [None, "x", ""],
    ]
    with zipfile.ZipFile(io.BytesIO(xlsx(rows))) as made:
        members = {name: made.read(name) for name in made.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    # A formula that came to an empty text, as Excel saves it.
    computed = b'<c r="A5" t="str"><f>""</f><v></v></c><c r="B5"'
    members[sheet] = members[sheet].replace(b'<c r="B5"', computed)

    detected = detect(write(tmp_path, archive(members)), "a.xlsx")
    done = read(tmp_path, source(tmp_path, archive(members), "a.xlsx"))

    assert detected.reading is not None
    assert detected.reading.columns == {"text": "text", "label": "label"}
    assert done.examples == [LabelledExample("one", ["good"]), LabelledExample("", ["x"])]
    assert [(p.code, p.line, p.path, p.excerpt) for p in done.problems] == [
        ("no_value", 3, "text", "=A2"),
        ("no_value", 4, "label", "#REF!"),
        ("empty_field", 5, "text", "null"),
        ("unused_fields", 0, "", "note"),
    ]


def test_dates_and_yes_or_no_are_read_as_a_sheet_shows_them(tmp_path: Path) -> None:
    day, hour = datetime.date(2024, 1, 2), datetime.datetime.fromisoformat("2024-01-02T15:30")

    done = read(
        tmp_path,
        source(tmp_path, xlsx([["text", "label"], [day, "a"], [hour, "b"], [True, False]]), "a.xlsx"),
    )

    assert done.examples == [
        LabelledExample("2024-01-02", ["a"]),
        LabelledExample("2024-01-02T15:30:00", ["b"]),
        LabelledExample("TRUE", ["FALSE"]),
    ]
    assert done.problems == []


@pytest.mark.parametrize("above", [["Our FAQ 2024"], ["Our FAQ 2024", None, "draft"], []])
def test_a_title_above_a_table_is_none_of_its_columns(tmp_path: Path, above: list[object]) -> None:
    rows = [[cell] for cell in above] + [
        ["question", "answer"],
        ["Where?", "Here."],
        ["When?", "Now."],
        ["Why?", None],
    ]

    done = read(tmp_path, source(tmp_path, xlsx(rows), "a.xlsx"))

    assert [record.line for record in done.records] == [len(above) + 2, len(above) + 3]
    assert done.codes == ["missing_content"]


@pytest.mark.parametrize("above", ["Our FAQ 2024\n\n", "Our FAQ 2024,\nas of May,\n", ""])
def test_a_title_above_a_table_in_text_is_none_of_its_columns(tmp_path: Path, above: str) -> None:
    rows = (
        'Kundenfrage,Bereich\n"Where is it, please?",orders\nHow much?,prices\nWhere?,orders\nWhen?,orders\n'
    )

    done = read(tmp_path, source(tmp_path, above + rows, "a.csv"))

    assert [record.line for record in done.records] == [above.count("\n") + n for n in (2, 3, 4, 5)]
    assert done.examples[0] == LabelledExample("Where is it, please?", ["orders"])
    assert done.problems == []


def test_the_name_of_a_tables_one_column_is_no_title_above_it(tmp_path: Path) -> None:
    done = read(tmp_path, source(tmp_path, "text\nHello there\nGood, morning\nBye, all\n", "a.csv"))

    assert [example.text for example in done.examples if isinstance(example, DocumentExample)] == [
        "Hello there"
    ]
    assert done.codes == ["too_many_fields", "too_many_fields"]


def test_labels_that_a_hugging_face_dataset_keeps_as_numbers_are_called_by_their_names(
    tmp_path: Path,
) -> None:
    label = {"names": ["negative", "positive"], "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": label}
    columns = {"text": ["I like it", "I hate it", "Not told"], "label": [1, 0, -1]}
    table = pyarrow.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)

    done = read(tmp_path, source(tmp_path, file.getvalue(), "a.parquet"))

    assert [each.labels for each in done.examples if isinstance(each, LabelledExample)] == [
        ["positive"],
        ["negative"],
        [""],
    ]
    assert done.codes == ["empty_field"]


def test_times_that_python_cannot_tell_cost_no_row_of_a_parquet_file(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "text": ["One", "Two"],
            "label": ["a", "b"],
            "at": pyarrow.array([1, 1_700_000_000_123_456_789], pyarrow.timestamp("ns", "UTC")),
            "took": pyarrow.array([1, 2], pyarrow.duration("ns")),
        }
    )
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)

    done = read(tmp_path, source(tmp_path, file.getvalue(), "a.parquet"))

    assert done.examples == [LabelledExample("One", ["a"]), LabelledExample("Two", ["b"])]


def test_a_table_of_too_many_columns_is_said_to_be_that(tmp_path: Path) -> None:
    wide = "\n".join(",".join(f"{word}{n}" for n in range(1001)) for word in "abc")

    refused = detect(write(tmp_path, wide), "a.csv")

    assert (refused.code, refused.reason) == ("file_too_complex", "It has more than 1000 columns.")


def test_a_column_of_texts_is_not_cut_off_as_a_title_where_a_note_stands_beside_one_of_them(
    tmp_path: Path,
) -> None:
    rows = [["text"], *[[f"Text {number}"] for number in range(3)], ["Text 3", "a note"], ["Text 4"]]

    done = read(tmp_path, source(tmp_path, xlsx(rows), "a.xlsx"))

    assert [record.line for record in done.records] == [2, 3, 4, 6]
    assert done.codes == ["too_many_fields"]


def test_a_damaged_workbook_or_parquet_file_is_a_problem_of_the_file(tmp_path: Path) -> None:
    table = parquet(ROWS * 500)
    broken = table[:100] + bytes(200) + table[300:]

    done = read(
        tmp_path,
        source(tmp_path, broken, "a.parquet", Reading("parquet", "labelled")),
        source(tmp_path, archive({"xl/workbook.xml": b"<a"}), "a.xlsx", Reading("xlsx", "labelled")),
    )

    assert done.codes == ["broken_file", "broken_file"]
    assert [(problem.file, problem.line) for problem in done.problems] == [("a.parquet", 0), ("a.xlsx", 0)]
