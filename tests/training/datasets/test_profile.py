"""A report says of every example what is known of it, where it is, and the same however many processes looked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.training.datasets.files import archive, source
from tests.training.datasets.records import chat, labelled, model_folder, sentence, write_records
from training.datasets import profile as profiling
from training.datasets import shards
from training.datasets.examples import (
    ChatExample,
    LabelledExample,
    Message,
    PreferenceExample,
    Record,
    TranslationExample,
)
from training.datasets.problems import DataError, Problem
from training.datasets.profile import profile
from training.datasets.progress import Cancelled
from training.datasets.reading import ReadSummary, read_sources
from training.datasets.report import Count, Report
from training.datasets.sources import Reading, Source

TWENTY = [chat(sentence(n, 10), sentence(-n - 1)) for n in range(20)]


def problems_in(folder: Path) -> list[Problem]:
    lines = (folder / "problems.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Problem) for line in lines]


def counted(counts: list[Count]) -> dict[str, int]:
    return {count.name: count.count for count in counts}


def test_repetitions_are_counted_and_each_says_what_it_repeats(tmp_path: Path) -> None:
    near = chat(sentence(3, 10), sentence(-4) + " indeed")
    folder = write_records(tmp_path / "work", [*TWENTY, TWENTY[5], TWENTY[5], near])
    report = profile(folder, model=None, max_tokens=0, files=["Fragen.jsonl"])
    assert (report.read, report.exact_duplicates, report.near_duplicates) == (23, 2, 1)
    found = [(p.code, p.file, p.line, p.reason) for p in problems_in(folder)]
    assert ("exact_duplicate", "Fragen.jsonl", 21, "It is the same as Fragen.jsonl, line 6.") in found
    assert ("near_duplicate", "Fragen.jsonl", 23, "It is nearly the same as Fragen.jsonl, line 4.") in found


def test_of_an_archive_the_file_within_it_is_named(tmp_path: Path) -> None:
    asked = chat(sentence(30, 10), sentence(-31) + " eve@example.com")
    one, two = (
        b"".join(msgspec.json.encode({"messages": example.messages}) + b"\n" for example in some)
        for some in (TWENTY[:3], [TWENTY[1], asked])
    )
    packed = source(tmp_path, archive({"a/one.jsonl": one, "b/two.jsonl": two}), "dup.zip")
    read_sources([packed], tmp_path / "work")

    profile(tmp_path / "work", model=None, max_tokens=0, files=["dup.zip"])

    assert [(p.code, p.file, p.line, p.path) for p in problems_in(tmp_path / "work")] == [
        ("personal_email", "dup.zip/b/two.jsonl", 2, "messages[1].content"),
        ("exact_duplicate", "dup.zip/b/two.jsonl", 1, ""),
    ]
    (repeated,) = (p for p in problems_in(tmp_path / "work") if p.code == "exact_duplicate")
    assert repeated.reason == "It is the same as dup.zip/a/one.jsonl, line 2."


def test_a_last_row_whose_text_is_empty_is_counted_as_any_other(tmp_path: Path) -> None:
    """As of a table, which may be sent so: cleaning then drops it, or fills it."""
    source = tmp_path / "tickets.csv"
    source.write_text("text,label\nHello there,greeting\nGood bye,farewell\n,greeting\n,greeting\n")
    reading = Reading("csv", "labelled", columns={"text": "text", "label": "label"})
    read = read_sources([Source(source, source.name, reading)], tmp_path / "work")
    report = profile(tmp_path / "work", model=None, max_tokens=0, read=read)
    assert (report.usable, report.exact_duplicates, counted(report.labels)["greeting"]) == (4, 1, 3)


def test_a_shared_system_message_makes_no_near_duplicates(tmp_path: Path) -> None:
    system = Message("system", sentence("rules", 200))
    folder = write_records(
        tmp_path / "work", [ChatExample([system, *example.messages]) for example in TWENTY]
    )
    assert profile(folder, model=None, max_tokens=0).near_duplicates == 0


def test_what_is_in_the_evaluation_data_is_found_exactly_and_nearly(tmp_path: Path) -> None:
    test = tmp_path / "frozen" / "test.jsonl"
    test.parent.mkdir()
    test.write_bytes(msgspec.json.encode(TWENTY[1]) + b"\n")
    other = write_records(
        tmp_path / "other", [chat(sentence(2, 10), sentence(-3) + " indeed"), chat("a", "b")]
    )
    folder = write_records(tmp_path / "work", TWENTY)
    report = profile(folder, model=None, max_tokens=0, evaluation=[test, other / "records"])
    assert report.overlap == 2
    assert [p.line for p in problems_in(folder) if p.code == "in_evaluation_data"] == [2, 3]


def test_evaluation_data_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", TWENTY)
    with pytest.raises(DataError, match=r"test\.jsonl") as caught:
        profile(folder, model=None, max_tokens=0, evaluation=[tmp_path / "test.jsonl"])
    assert caught.value.code == "dataset_broken"


def test_personal_data_is_counted_by_examples_and_shown_where_it_is(tmp_path: Path) -> None:
    asked = chat("Hello", "Hi", "Write to eve@example.com or bob@example.com, or call +49 30 1234567", "Yes")
    folder = write_records(tmp_path / "work", [*TWENTY, asked])
    report = profile(folder, model=None, max_tokens=0)
    assert counted(report.personal_data) == {"email": 1, "phone": 1}
    (problem,) = [p for p in problems_in(folder) if p.code == "personal_email"]
    assert (problem.line, problem.path) == (21, "messages[2].content")
    assert "eve@example.com" in problem.excerpt


def test_tokens_are_counted_as_they_are_trained_and_what_is_too_long_says_what_is_lost(
    tmp_path: Path,
) -> None:
    model = model_folder(tmp_path / "tiny")
    # The cut falls between the two bytes of a letter.
    answer = "x" * 28 + "я" + "this is too late " + "y" * 53
    folder = write_records(tmp_path / "work", [chat("Hi", "Ho"), chat("Hi", answer)])
    report = profile(folder, model=model, max_tokens=50)
    assert report.tokens is not None
    # <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n are 8 and 12 tokens and one for the newline between.
    around = 1 + 5 + 2 + 2 + 1 + 10
    assert report.tokens.largest == around + 101
    assert report.trained_tokens == 3 + 101
    assert (report.too_long, report.lost_tokens) == (1, around + 101 - 50)
    (preview, long_preview) = report.previews
    assert [token.lost for token in long_preview] == [False] * 50 + [True] * report.lost_tokens
    assert not any(token.lost for token in preview)
    assert "".join(token.text for token in preview if token.trained) == "Ho<|im_end|>"
    assert "".join(token.text for token in preview).startswith("<|im_start|>user\nHi<|im_end|>")
    (problem,) = [p for p in problems_in(folder) if p.code == "too_long"]
    assert problem.line == 2
    assert f"{report.lost_tokens} of those" in problem.reason
    assert problem.excerpt == "this is too late " + "y" * 53 + "<|im_end|>"


def test_of_a_pair_of_answers_the_prompt_with_the_better_one_is_counted(tmp_path: Path) -> None:
    asked = [Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "?")]
    pair = PreferenceExample(asked, "This one", "x" * 500)
    folder = write_records(tmp_path / "work", [pair])
    report = profile(folder, model=model_folder(tmp_path / "tiny"), max_tokens=50)
    assert report.tokens is not None
    (preview,) = report.previews
    assert "".join(token.text for token in preview if token.trained) == "This one<|im_end|>"
    assert (report.tokens.largest, report.trained_tokens, report.too_long) == (len(preview), 9, 1)
    assert report.lost_tokens == len(preview) - 50 == 4


def test_a_preview_shows_a_character_of_several_tokens_once(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", [chat("Grüße", "Привет")])
    report = profile(folder, model=model_folder(tmp_path / "tiny"), max_tokens=0)
    assert "assistant\nПривет<|im_end|>" in "".join(token.text for token in report.previews[0])


def test_labels_languages_and_outliers_are_counted(tmp_path: Path) -> None:
    german = "Wann kommt meine Bestellung an, die ich letzte Woche aufgegeben habe? Nummer "
    examples = [labelled(german + sentence(n, 2), "delivery" if n % 4 else "refund") for n in range(40)]
    folder = write_records(tmp_path / "work", [*examples, labelled("=" * 5000, "delivery")])
    report = profile(folder, model=None, max_tokens=0)
    assert counted(report.labels) == {"delivery": 31, "refund": 10}
    assert counted(report.languages)["de"] >= 39
    assert report.languages_of == 41
    assert [p.line for p in problems_in(folder) if p.code == "outlier"] == [41]
    assert report.outliers == 1


def test_languages_are_those_that_people_speak_and_not_the_one_that_the_model_is_told_in(
    tmp_path: Path,
) -> None:
    told = Message(
        "system", "You are a helpful assistant of a shop that sells shoes and answers briefly. " * 5
    )
    asked = chat("Wann kommt meine Bestellung an, die ich letzte Woche aufgegeben habe?", "Sie kommt morgen.")
    folder = write_records(tmp_path / "work", [ChatExample([told, *asked.messages])])
    assert counted(profile(folder, model=None, max_tokens=0).languages) == {"de": 1}


def test_of_translations_both_languages_are_told_and_which_comes_first(tmp_path: Path) -> None:
    german = "Wann kommt meine Bestellung an, die ich letzte Woche aufgegeben habe?"
    english = "When will the order arrive that I placed last week?"
    pairs = [TranslationExample(german, english)] * 3 + [TranslationExample(english, german)]
    report = profile(write_records(tmp_path / "work", pairs), model=None, max_tokens=0)
    assert counted(report.languages) == {"de → en": 3, "en → de": 1}
    assert report.languages_of == 4


def test_a_label_of_few_examples_is_told_where_it_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "parts_of", lambda folder: shards.parts_of(folder, part_bytes=1000))
    labels = [["a"], ["b"]] * 20 + [["typo"], [], [""], ["a", "typo"], ["once"]]
    folder = write_records(
        tmp_path / "work", [labelled(sentence(n, 12), *some) for n, some in enumerate(labels)]
    )
    report = profile(folder, model=None, max_tokens=0, files=["tickets.csv"])
    assert counted(report.problems)["rare_label"] == 2
    assert report.severities["rare_label"] == "warning"
    found = [(p.file, p.line, p.reason) for p in problems_in(folder) if p.code == "rare_label"]
    assert [(file, line) for file, line, _ in found] == [("tickets.csv", 41), ("tickets.csv", 45)]
    assert "Examples with the label “typo”: 2." in found[0][2]
    assert "Examples with the label “once”: 1." in found[1][2]


def test_the_same_text_under_different_labels_is_told_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "parts_of", lambda folder: shards.parts_of(folder, part_bytes=200))
    agreeing = [labelled(sentence(n, 12), "a" if n % 2 else "b") for n in range(12)]
    examples = [
        labelled("It is  fine", "good"),
        *agreeing,
        agreeing[3],
        labelled("it is fine", "good"),
        labelled("It is fine", "bad"),
        labelled("It is fine", ""),
        LabelledExample("It is fine", value=1.0),
        labelled("It is fine"),
        labelled("", "good"),
        labelled("", "bad"),
    ]
    folder = write_records(tmp_path / "work", examples)
    report = profile(folder, model=None, max_tokens=0, files=["tickets.csv"])
    assert counted(report.problems)["conflicting_labels"] == 2
    found = [(p.line, p.severity, p.reason) for p in problems_in(folder) if p.code == "conflicting_labels"]
    assert found == [
        (16, "warning", "The same text is “good” in tickets.csv, line 1, and “bad” here."),
        (19, "warning", "The same text is “good” in tickets.csv, line 1, and without a label here."),
    ]


def test_of_a_column_that_is_different_in_every_row_not_all_is_listed_as_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "MOST_LABELS", 5)
    examples = [labelled(f"ticket {n}", str(n)) for n in range(12)] + [labelled("ticket 7 again", "7")]
    report = profile(write_records(tmp_path / "work", examples), model=None, max_tokens=0)
    assert report.labels[0] == Count("7", 2)
    assert (len(report.labels), report.more_labels) == (5, 7)


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "parts_of", lambda folder: shards.parts_of(folder, part_bytes=2000))
    records = [*TWENTY, TWENTY[3], chat("mail eve@example.com", "no")]
    reports: list[Report] = []
    for processes in (1, 2):
        folder = write_records(tmp_path / str(processes), records, shards=2)
        reports.append(profile(folder, model=None, max_tokens=0, processes=processes))
        reports[-1].seconds = 0
    assert reports[0] == reports[1]
    assert problems_in(tmp_path / "1") == problems_in(tmp_path / "2")


def test_a_second_report_replaces_the_first_and_keeps_what_reading_found(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", [*TWENTY, TWENTY[0]])
    unread = Problem("invalid_json", "error", "a.jsonl", 7, "", "{", "It is no JSON.", "Correct it.")
    (folder / "problems.jsonl").write_bytes(msgspec.json.encode(unread) + b"\n")
    read = ReadSummary("chat", 22, 21, {"invalid_json": 1}, {"invalid_json": "error"}, 1)
    for _ in range(2):
        report = profile(folder, model=None, max_tokens=0, read=read)
        assert [p.code for p in problems_in(folder)] == ["invalid_json", "exact_duplicate"]
    assert (report.read, report.usable) == (22, 21)
    assert counted(report.problems) == {"exact_duplicate": 1, "invalid_json": 1}
    assert report.severities == {"exact_duplicate": "warning", "invalid_json": "error"}
    assert msgspec.json.decode((folder / "report.json").read_bytes(), type=Report) == report


def test_of_each_code_only_so_many_are_listed_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "MOST_PROBLEMS", 3)
    folder = write_records(
        tmp_path / "work", [chat(f"a{n}@example.com " + sentence(n), "x") for n in range(5)]
    )
    report = profile(folder, model=None, max_tokens=0)
    assert counted(report.problems)["personal_email"] == 5
    assert [p.line for p in problems_in(folder)] == [1, 2, 3]


def test_nothing_usable_is_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    report = profile(tmp_path, model=None, max_tokens=0)
    assert (report.read, report.kind, report.tokens) == (0, "", None)


def test_cancelling_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "parts_of", lambda folder: shards.parts_of(folder, part_bytes=2000))
    folder = write_records(tmp_path / "work", TWENTY)

    def cancel(stage: str, done: int, total: int) -> None:
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        profile(folder, model=None, max_tokens=0, progress=cancel)
    assert [file.name for file in folder.iterdir()] == ["records"]


def test_two_kinds_of_example_are_refused(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", [TWENTY[0], labelled("a", "b")])
    with pytest.raises(DataError, match="chat and labelled") as caught:
        profile(folder, model=None, max_tokens=0)
    assert caught.value.code == "mixed_kinds"


def test_a_model_that_is_none_is_a_typed_error(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", [Record(TWENTY[0], 0, 1)])
    with pytest.raises(DataError, match="vocabulary") as caught:
        profile(folder, model=tmp_path / "nowhere", max_tokens=0)
    assert caught.value.code == "model_unreadable"
