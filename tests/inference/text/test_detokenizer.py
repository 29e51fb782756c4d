"""Text comes out whole: no half characters, no stop strings, nothing lost at the end, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.text.detokenizer import IncrementalDetokenizer

HARD = "Grüße, 世界! 👩‍👩‍👧‍👦 ⁉️ naïve 🇩🇪 — ﷽ \U0001f9d1\U0001f3fd‍\U0001f680."
SHORT = st.text(alphabet="ab<|>é世🙂", max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def push_all(detokenizer: IncrementalDetokenizer, parts: list[bytes]) -> list[str]:
    return [detokenizer.push(part) for part in parts] + [detokenizer.finish()]


def stopped_text(text: str, stops: tuple[str, ...]) -> str:
    """The specification: read on character by character until a stop string is complete."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def test_every_single_byte_gives_whole_characters_only() -> None:
    detokenizer = IncrementalDetokenizer()
    given_out = push_all(detokenizer, [bytes([byte]) for byte in HARD.encode()])
    assert "".join(given_out) == HARD
    assert not any("�" in piece for piece in given_out)


@given(st.text(), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_text_cut_anywhere_comes_out_as_it_was(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", errors="replace")
    assert "".join(push_all(IncrementalDetokenizer(), pieces(data, cuts))) == data.decode()


@given(st.binary(max_size=40), st.lists(st.integers(0, 1000), max_size=10))
def test_bytes_that_are_no_text_become_replacement_characters_wherever_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    assert "".join(push_all(IncrementalDetokenizer(), pieces(data, cuts))) == data.decode(
        "utf-8", errors="replace"
    )


@pytest.mark.parametrize("stop", ["STOP", "</s>", "停止。", "🙂🙃", "aab", "\n\n", "x"])
def test_a_stop_string_is_found_at_every_split(stop: str) -> None:
    data = f"before {stop[:-1]} {stop} after".encode()
    wanted = f"before {stop[:-1]} ".split(stop)[0]
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            detokenizer = IncrementalDetokenizer((stop,))
            given_out = push_all(detokenizer, [data[:first], data[first:second], data[second:]])
            assert "".join(given_out) == wanted
            assert detokenizer.stopped


@given(SHORT, st.lists(SHORT.filter(bool), max_size=4), st.lists(st.integers(0, 100), max_size=12))
def test_stop_strings_end_the_text_alike_however_it_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    detokenizer = IncrementalDetokenizer(tuple(stops))
    wanted = stopped_text(text, tuple(stops))
    so_far = ""
    for piece in push_all(detokenizer, pieces(text.encode(), cuts)):
        so_far += piece
        assert wanted.startswith(so_far), "something was given out that had to be taken back"
    assert so_far == wanted
    assert detokenizer.stopped == (wanted != text or any(text.endswith(stop) for stop in stops))


def test_no_more_is_held_back_than_could_begin_a_stop_string() -> None:
    detokenizer = IncrementalDetokenizer(("abcd",))
    assert detokenizer.push(b"xyzab") == "xyz"
    assert detokenizer.push(b"x") == "abx"
    assert detokenizer.push(b"ababc") == "ab"
    assert detokenizer.finish() == "abc"


def test_half_a_character_at_the_end_is_shown_as_one_that_is_missing() -> None:
    detokenizer = IncrementalDetokenizer()
    assert detokenizer.push("ok 🙂".encode()[:-1]) == "ok "
    assert detokenizer.finish() == "�"


def test_the_space_some_vocabularies_begin_with_is_no_part_of_the_text() -> None:
    detokenizer = IncrementalDetokenizer(strips_leading_space=True)
    assert push_all(detokenizer, [b"", b" Hello", b" you"]) == ["", "Hello", " you", ""]
