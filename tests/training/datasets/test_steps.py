"""Each step changes what it is for and nothing else, and a second time changes nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.datasets.examples import ChatExample, Example, LabelledExample, Message
from training.datasets.recipe import Recipe
from training.datasets.steps import even_whitespace, repair, steps_of


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("schÃ¶n", "schön"),
        ("itâ€™s", "it’s"),
        ("plain “quotes” &amp; ligatures ﬁ", "plain “quotes” &amp; ligatures ﬁ"),
        ("bell\x07 and \x1b[31mred\x1b[0m", "bell and red"),
        ("日本語", "日本語"),
    ],
)
def test_only_what_is_broken_is_repaired(before: str, after: str) -> None:
    assert repair(before) == after


@pytest.mark.parametrize(
    ("form", "after"),
    [
        ("NFC", "caf\u00e9 \ufb01x \uff21 x\u00b2 \uac00"),
        ("NFKC", "caf\u00e9 fix A x2 \uac00"),
    ],
)
def test_what_is_written_in_several_ways_is_written_in_one(form: str, after: str) -> None:
    before = "cafe\u0301 \ufb01x \uff21 x\u00b2 \u1100\u1161"
    steps = steps_of(Recipe(normalise_unicode=form))  # type: ignore[arg-type]
    assert [name for name, _ in steps][1] == "normalise_unicode"

    def cleaned(example: Example | None) -> Example | None:
        for _, step in steps:
            example = step(example) if example else None
        return example

    asked = ChatExample([Message("user", before), Message("assistant", before, weight=1)])
    assert cleaned(asked) == ChatExample([Message("user", after), Message("assistant", after, weight=1)])
    labelled = cleaned(LabelledExample(before, [before]))
    assert labelled == LabelledExample(after, [before])  # a label is what it is called
    assert cleaned(labelled) is labelled


def test_unicode_is_composed_where_a_recipe_says_nothing_and_left_alone_where_it_says_so() -> None:
    assert "normalise_unicode" not in dict(steps_of(Recipe(normalise_unicode="")))
    normalise = dict(steps_of(Recipe()))["normalise_unicode"]
    assert normalise(LabelledExample("e\u0301 \ufb01")) == LabelledExample("\u00e9 \ufb01")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  a  b\t\tc  \n\n\n\n\nd ", "a b c\n\nd"),
        ("list:\n  - one\n  - two", "list:\n  - one\n  - two"),
        (
            "run  it:\n```\nx  =  1\n\n\n\ny\n```\n\n\n\nand  so",
            "run it:\n```\nx  =  1\n\n\n\ny\n```\n\nand so",
        ),
        ("open\n~~~\na  b", "open\n~~~\na  b"),
        ("as is", "as is"),
    ],
)
def test_white_space_is_made_even_outside_code(before: str, after: str) -> None:
    assert even_whitespace(before) == after


@settings(deadline=None)
@given(st.text(st.sampled_from("ab \t\n`~\u00a0")))
def test_white_space_that_is_even_stays(text: str) -> None:
    assert even_whitespace(even_whitespace(text)) == even_whitespace(text)


@pytest.mark.parametrize(
    "text", ["\n" + " " * 100_000 + "x", "a" + " " * 100_000 + "b", "\n \n" * 50_000, "```\n" * 30_000]
)
def test_white_space_takes_no_time(text: str) -> None:
    started = time.process_time()
    even_whitespace(text)
    assert time.process_time() - started < 3
