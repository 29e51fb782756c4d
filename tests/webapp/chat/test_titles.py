"""What is taken for a title: the messages are people's, the answers those of the demo model."""

from __future__ import annotations

import pytest

from webapp.chat.titles import clean_title


@pytest.mark.parametrize(
    ("message", "answer", "title"),
    [
        (
            "Why is the sky blue, and red at sunset?",
            "The Sky Blue and Red at Sunset.",
            "The Sky Blue and Red at Sunset",
        ),
        ("Write a Python function that reverses a string.", 'Title: "Python Reversal"', "Python Reversal"),
        (
            "Tell me a long story about a lighthouse keeper and her cat.",
            "Lighthouse Keeper and Her Cat: A Long Story of Hope and Resilience",
            "Lighthouse Keeper and Her Cat",
        ),
        (
            "Summarize the plot of Romeo and Juliet",
            "**Romeo and Juliet Summary**\nIt is",
            "Romeo and Juliet Summary",
        ),
        ("怎样写一封请假邮件?", "标题:请假邮件写法", "请假邮件写法"),
        ("我的电脑开不了机怎么办?", "电脑开不了机 \ufffd", "电脑开不了机"),
    ],
)
def test_a_few_words_about_the_message_are_its_title(message: str, answer: str, title: str) -> None:
    assert clean_title(answer, message) == title


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("hi", "Hello, welcome to my blog."),
        ("What is 17 times 23?", "17 x 23 = 317"),
        ("My laptop won't turn on after I spilled coffee on it. What should I do?", "Battery Life Issues"),
        ("My laptop won't turn on. What should I do?", "What to Do"),
        ("Write a title", "I'm sorry for your loss, but as a chatbot, I don't have the ability to"),
        ("I have a job interview", "Bailiw\ufffd Job Interview"),
        ("你好,请介绍一下你自己。", "Your Self-Improvement and Personal Development"),
        ("anything", ""),
    ],
)
def test_an_answer_a_fancy_or_a_sum_is_no_title(message: str, answer: str) -> None:
    assert clean_title(answer, message) == ""
