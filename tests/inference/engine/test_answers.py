"""Tokens of answers are kept for the next turn, and never more of them than the cache can hold."""

from __future__ import annotations

from inference.engine.answers import Answers


def said(text: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": text}


def test_the_longest_unused_is_forgotten_first() -> None:
    answers = Answers(10)
    answers.remember("w", "a", [1] * 4)
    answers.remember("w", "b", [2] * 4)
    answers.among("w", [said("a")])
    answers.remember("w", "c", [3] * 4)
    assert set(answers.among("w", [said("a"), said("b"), said("c")])) == {"a", "c"}


def test_an_answer_given_again_takes_the_place_of_the_first() -> None:
    answers = Answers(10)
    for n in range(5):
        answers.remember("w", "a", [n] * 4)
    answers.remember("w", "b", [9] * 6)
    assert answers.among("w", [said("a"), said("b")]) == {"a": [4] * 4, "b": [9] * 6}


def test_an_answer_longer_than_the_cache_is_not_kept() -> None:
    answers = Answers(10)
    answers.remember("w", "a", [1] * 11)
    assert answers.among("w", [said("a")]) == {}
    answers.remember("w", "b", [1] * 10)
    assert answers.among("w", [said("b")]) == {"b": [1] * 10}


def test_what_a_person_said_is_no_answer_and_other_workspaces_have_none() -> None:
    answers = Answers(10)
    answers.remember("w", "a", [1])
    assert answers.among("w", [said("a", "user")]) == answers.among("v", [said("a")]) == {}
