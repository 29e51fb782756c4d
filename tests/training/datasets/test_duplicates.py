"""Near-duplicates are those that share most of their pieces, found the same way whatever else is there."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.datasets.records import chat, sentence
from training.datasets.duplicates import find_duplicates, find_overlap, join
from training.datasets.examples import DocumentExample, LabelledExample
from training.datasets.fingerprints import Fingerprints, fingerprints_of, similarity


def jaccard(one: str, other: str) -> float:
    first, second = ({text[n : n + 5] for n in range(len(text) - 4)} for text in (one, other))
    return len(first & second) / len(first | second)


def test_sketches_estimate_the_jaccard_similarity() -> None:
    text = sentence("text", 100)
    words = text.split()
    others = [" ".join([*words[: len(words) - gone], sentence(gone, gone)]) for gone in range(1, 60, 6)]
    prints = fingerprints_of([DocumentExample(t) for t in (text, *others)])
    estimated = similarity(prints.sketches[:1], prints.sketches[1:])
    exact = np.array([jaccard(text, other) for other in others])
    assert exact.max() > 0.9
    assert exact.min() < 0.5
    assert np.abs(estimated - exact).max() < 0.15


def test_most_of_what_is_alike_and_nothing_of_what_is_not_is_found() -> None:
    texts = [sentence(n, 60) for n in range(200)]
    changed = [text[:-12] + sentence(("end", text), 2) for text in texts]
    assert all(jaccard(*pair) > 0.85 for pair in zip(texts, changed, strict=True))
    found = find_duplicates(fingerprints_of([DocumentExample(text) for text in texts + changed]))
    assert not found.exact.any()
    assert not found.near[:200].any()
    assert found.near[200:].mean() > 0.97
    assert (found.cluster[200:] == np.where(found.near[200:], np.arange(200), np.arange(200, 400))).all()


def test_what_is_alike_is_found_among_many_texts_of_one_template() -> None:
    """These have so much in common that they share bands by the hundred, and hardly any two are near-duplicates: who
    looks at one or two of those with the same band misses one in seven."""
    begin = sentence("template", 40)
    texts = [f"{begin} {sentence(n, 6)}" for n in range(600)]
    changed = [f"{' '.join(text.split()[:-4])} {sentence(('end', n), 4)}" for n, text in enumerate(texts)]
    prints, evaluation = (
        fingerprints_of([DocumentExample(text) for text in some]) for some in (changed, texts)
    )
    alike = similarity(prints.sketches, evaluation.sketches) >= 0.8
    assert alike.mean() > 0.8
    assert find_overlap(prints, evaluation)[alike].mean() > 0.99
    together = find_duplicates(Fingerprints.joined([evaluation, prints]))
    assert together.near[600:][alike].mean() > 0.99


def test_case_and_white_space_are_near_and_another_label_is_no_exact_repetition() -> None:
    text = sentence(1)
    examples = [
        LabelledExample(text, ["a"]),
        LabelledExample(text, ["b"]),
        LabelledExample(text.upper(), ["a"]),
        LabelledExample(f"  {text} ".replace(" ", "  "), ["a"]),
    ]
    found = find_duplicates(fingerprints_of(examples))
    assert found.exact.tolist() == [False, False, False, True]
    assert found.cluster.tolist() == [0, 0, 0, 0]


def test_short_and_empty_texts_have_fingerprints_too() -> None:
    examples = [chat("", ""), chat("a", ""), chat("a", ""), chat("日", "本")]
    assert find_duplicates(fingerprints_of(examples)).cluster.tolist() == [0, 1, 1, 3]


@settings(deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))
    )
)
def test_joining_pairs_gives_each_row_the_smallest_of_its_set(
    case: tuple[int, list[tuple[int, int]]],
) -> None:
    size, pairs = case
    root = np.arange(size)
    for some in (pairs[::2], pairs[1::2]):
        both = np.array(some, np.int64).reshape(-1, 2)
        join(root, both[:, 0], both[:, 1])
    expected = list(range(size))
    for _ in range(size):
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert root.tolist() == expected
