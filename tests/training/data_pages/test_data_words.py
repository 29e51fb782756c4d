"""What is wrong with data, in 简体中文: every sentence that reading and counting may say is known there."""

from __future__ import annotations

import ast
import html
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import translation

from tests.training.data_pages.conftest import LogIn, Seen
from tests.training.datasets.files import archive, pdf, workbook
from training import data_words, datasets, services, storage, tasks
from training.datasets import codes, findings
from training.job_words import in_reader_language
from training.models import Dataset
from training.problem_list import read_problems
from webapp.accounts.models import User

FOLDER = Path(datasets.__file__).parent
# Said to nobody: an error of ours, and what the look at a file that can be read comes to.
HOLE = "7"
UNSAID = ("The process that reads files ended with 7 before it began.", "777 with 7.")


def sentences(path: Path) -> Iterator[str]:
    """Those in a module that are not about it, with a number in every hole."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    about = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in about | parts:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if (text[:1].isupper() or text[:1] == HOLE) and text.endswith(".") and " " in text:
            yield text


def test_every_sentence_about_data_is_known_in_chinese() -> None:
    found = {text for path in FOLDER.rglob("*.py") for text in sentences(path)} - {*UNSAID}
    assert len(found) > 150
    with translation.override("zh-hans"):
        assert sorted(text for text in found if data_words._known(text) is None) == []


def test_every_code_and_every_part_of_a_sentence_is_known_in_chinese() -> None:
    with translation.override("zh-hans"):
        names = {code: data_words.code_name(code) for code in {*codes.CODES, *findings.CODES}}
        assert [code for code, name in names.items() if name.isascii()] == []
        for kind in findings._PERSONAL.values():
            assert not data_words.said(f"It holds {kind}.").removeprefix("其中含有").isascii()
        said = data_words.said(
            "all.zip: The name ends in .csv, but the file is a PDF. The PDF has no text in it."
        )
        assert said == "all.zip：文件名以 .csv 结尾，但内容实为：PDF 文件。PDF 中没有文字。"
        assert data_words.said("Nobody knows: this.") == "Nobody knows: this."
        said = in_reader_language(
            "The job failed due to an invalid training file. a.jsonl, line 65: The example has no list of messages. "
            "Use 1 to learn a message and 0 not to. (wrong_weight) There are 3 such problems in all."
        )
        assert said == (
            "任务失败：训练文件无效。a.jsonl，第 65 行：样本没有消息列表。要学习的消息用 1，不学习的用 0。"
            "（wrong_weight）这样的问题共有 3 个。"
        )
    assert data_words.said("It is the same as a.csv, line 3.") == "It is the same as a.csv, line 3."


def test_every_sentence_with_holes_is_there_once() -> None:
    assert len(data_words.TEMPLATES) == len({*data_words.TEMPLATES})


@pytest.fixture
def client(alice: User, logged_in: LogIn) -> Client:
    """Of who reads Chinese."""
    client: Client = logged_in(alice)
    client.post(reverse("set_language"), {"language": "zh-hans"})
    return client


@pytest.mark.django_db(transaction=True)
def test_names_out_of_a_persons_files_are_not_translated(
    client: Client, dataset: Dataset, seen: Seen
) -> None:
    rows = [["text", "label"], *([f"It is late, {n}.", ("Text", "Label")[n % 2]] for n in range(6))]
    file = seen("a.xlsx", workbook({"Data": rows, "Label": rows, "Text": [["Date"]]}))
    for page in (f"/data/{dataset.pk}/", f"/data/files/{file.pk}/"):
        assert "只读取工作表 Data，不读取 Label, Text。" in client.get(page).content.decode()

    tasks.run(str(services.start_report(dataset=dataset).pk))
    page = html.unescape(client.get(f"/data/{dataset.pk}/report/?code=rare_label").content.decode())
    assert "标签“Text”只有 3 个样本" in page
    assert "标签“Label”只有 3 个样本" in page


@pytest.mark.django_db(transaction=True)
def test_a_report_and_what_is_said_of_files_is_chinese_for_who_reads_that(
    client: Client, dataset: Dataset, seen: Seen
) -> None:
    row = b'{"prompt": "Mail eve@example.com", "completion": "No, we will not do so today.", "note": "x"}\n'
    seen("asked.csv", 2 * row + b'{"prompt": "Hello?"}\n{"prompt": \n')
    locked = seen("locked.txt", pdf(["Hello there"], password="secret"))
    seen("all.zip", archive({"a.jsonl": row, "b.png": b"\x89PNG\r\n\x1a\n" + bytes(50)}))
    table = client.get(f"/data/{dataset.pk}/").content.decode()
    assert "文件名以 .csv 结尾，但内容实为：JSON Lines。" in table
    assert "文件名以 .txt 结尾，但内容实为：PDF 文件。PDF 有密码保护。" in table
    assert "PDF 有密码保护。" in client.get(f"/data/files/{locked.pk}/").content.decode()

    report = services.start_report(dataset=dataset)
    tasks.run(str(report.pk))
    report.refresh_from_db()
    address = f"/data/{dataset.pk}/report/"
    found = list(read_problems(storage.work_folder(report)))
    assert {"exact_duplicate", "personal_email", "missing_column", "invalid_json", "encrypted_file"} <= {
        problem.code for problem in found
    }
    whole = client.get(address).content.decode()
    assert ">What<" not in whole
    for problem in found:
        page = html.unescape(client.get(f"{address}?code={problem.code}").content.decode())
        assert problem.code.replace("_", " ").capitalize() not in page
        assert [said for said in (problem.reason, problem.remedy) if said in page] == []


@pytest.mark.django_db(transaction=True)
def test_why_work_failed_is_chinese_for_who_reads_that(client: Client, dataset: Dataset, seen: Seen) -> None:
    seen("asked.jsonl", b'{"prompt": "Hello?", "completion": "Hi."}\n')
    why = "A dataset holds one kind of example; this has chat and labelled."
    services.start_report(dataset=dataset)
    dataset.work.filter(kind="report").update(state="failed", error_message=why)
    page = client.get(f"/data/{dataset.pk}/report/").content.decode()
    assert why not in page
    assert "一个数据集只能有一种样本，而这个数据集有：" in page
