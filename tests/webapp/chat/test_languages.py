"""The site in 简体中文: every sentence has a translation, and the compiled file people get is the one written."""

from __future__ import annotations

import gettext
import json
import re
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import User, Workspace

FOLDER = Path(__file__).resolve().parents[3] / "webapp" / "locale" / "zh_Hans" / "LC_MESSAGES"
STRING = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'


def written() -> dict[str, str]:
    """The .po file's sentences and their (first) translations."""
    text = (FOLDER / "django.po").read_text(encoding="utf-8")
    pairs = re.findall(rf"msgid {STRING}(?:msgid_plural {STRING})?msgstr(?:\[0\])? {STRING}", text)
    return {joined(msgid): joined(msgstr) for msgid, _plural, msgstr in pairs if joined(msgid)}


def joined(block: str) -> str:
    return "".join(json.loads(part) for part in re.findall(r'"(?:[^"\\]|\\.)*"', block))


def places(sentence: str) -> set[str]:
    return set(re.findall(r"%\(\w+\)s|\{\w+\}", sentence))


def test_every_sentence_is_translated_with_the_same_places_to_fill() -> None:
    sentences = written()
    assert len(sentences) > 300
    assert [sentence for sentence, translation in sentences.items() if not translation] == []
    assert [s for s, t in sentences.items() if places(s) != places(t)] == []


def test_the_compiled_file_holds_what_is_written() -> None:
    with (FOLDER / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    assert {
        s: t for s, t in written().items() if t not in (compiled.gettext(s), compiled.ngettext(s, s, 1))
    } == {}


@pytest.mark.parametrize("page", ["home", "profile", "workspace_settings"])
def test_a_page_in_chinese_says_so_and_is(
    page: str, client: Client, alice: User, workspace: Workspace
) -> None:
    client.force_login(alice)
    client.post(reverse("set_language"), {"language": "zh-hans"})
    text = client.get(reverse(page)).content.decode()
    assert '<html lang="zh-hans"' in text
    assert "新对话" in text
    assert "New chat" not in text
    english = [s for s in written() if len(s) > 12 and "%" not in s and f">{s}<" in text]
    assert english == []


def test_an_error_is_a_sentence_in_the_readers_language(
    client: Client, alice: User, workspace: Workspace
) -> None:
    client.force_login(alice)
    missing = "/c/00000000-0000-4000-8000-000000000000/"
    response = client.get(missing, headers={"Accept-Language": "zh-Hans"})
    assert response.status_code == 404
    assert "该对话不存在，或你无权查看。" in response.content.decode()
