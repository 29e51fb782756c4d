"""A recipe does what its preview said, the same on every machine, and leaves a whole dataset or none."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.training.datasets.records import chat, labelled, model_folder, sentence, write_records
from training.datasets import aside, clean, shards
from training.datasets.clean import freeze, preview
from training.datasets.examples import (
    ChatExample,
    DocumentExample,
    Example,
    LabelledExample,
    Message,
    Record,
    TranslationExample,
)
from training.datasets.fingerprints import fingerprints_of, similarity
from training.datasets.frozen import SPLITS, read_manifest, read_split
from training.datasets.measure import open_encoder
from training.datasets.personal import find_personal
from training.datasets.problems import DataError
from training.datasets.progress import Cancelled
from training.datasets.recipe import Augment, Effect, Recipe, Split
from training.encoding import Encoder

ALL_TRAIN = Split(validation=0, test=0)
SIXTY = [chat(sentence(n, 10), sentence(-n - 1)) for n in range(60)]
MESSY: list[Example] = [
    *SIXTY,
    SIXTY[7],
    chat(sentence(8, 10), sentence(-9) + " indeed"),
    chat("schÃ¶n", "Das ist schÃ¶n."),
    chat("  much   space ", "yes\n\n\n\n\nand no  "),
    chat("Who answers?", " "),
    chat("Who?", "Ask eve@example.com."),
    chat("=" * 4000, "?"),
]
EVERYTHING = Recipe(redact=["email"], deduplicate="near", drop_outliers=True)


def frozen(folder: Path) -> dict[str, list[Example]]:
    return {split: list(read_split(folder, split)) for split in SPLITS}


def train_of(tmp_path: Path, recipe: Recipe, examples: list[Example], **options: Any) -> list[Example]:
    """Everything that is left."""
    folder = write_records(tmp_path / "work", examples)
    freeze(folder, recipe, tmp_path / "version", parent="", **options)
    return frozen(tmp_path / "version")["train"]


def effects_of(effects: list[Effect]) -> dict[str, tuple[int, int, int]]:
    return {effect.step: (effect.changed, effect.dropped, effect.added) for effect in effects}


def without_samples(effects: list[Effect]) -> list[Effect]:
    return [msgspec.structs.replace(effect, samples=[]) for effect in effects]


def test_each_step_does_what_its_preview_counted(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", MESSY)
    expected = preview(folder, EVERYTHING, tmp_path / "scratch")
    assert effects_of(expected) == {
        "repair_unicode": (1, 0, 0),
        "normalise_unicode": (0, 0, 0),
        "whitespace": (2, 0, 0),
        "missing": (0, 0, 0),
        "drop_empty": (0, 1, 0),
        "redact": (1, 0, 0),
        "deduplicate": (0, 2, 0),
        "drop_outliers": (0, 4, 0),
        "drop_overlap": (0, 0, 0),
        "split": (0, 0, 0),
    }
    assert [file.name for file in folder.iterdir()] == ["records"]
    assert not (tmp_path / "scratch").exists()
    manifest = freeze(folder, EVERYTHING, tmp_path / "version", parent="abc")
    assert manifest.effects == without_samples(expected)
    assert expected[-1].splits == {name: split.examples for name, split in manifest.splits.items()}
    assert sum(split.examples for split in manifest.splits.values()) == len(MESSY) - 7
    samples = {effect.step: effect.samples for effect in expected}
    assert samples["repair_unicode"] == [("schÃ¶n", "schön")]
    assert samples["redact"] == [("Ask eve@example.com.", "Ask [EMAIL].")]
    assert samples["deduplicate"][0][0].startswith(SIXTY[7].messages[0].content)


def test_the_manifest_says_what_is_in_the_files(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", MESSY)
    manifest = freeze(folder, EVERYTHING, tmp_path / "version", parent="abc")
    assert read_manifest(tmp_path / "version") == manifest
    assert (manifest.kind, manifest.parent, manifest.recipe) == ("chat", "abc", EVERYTHING)
    contents = frozen(tmp_path / "version")
    assert {name: len(some) for name, some in contents.items()} == {
        name: split.examples for name, split in manifest.splits.items()
    }
    assert {path.name for path in (tmp_path / "version").iterdir()} == {
        "train.jsonl",
        "validation.jsonl",
        "test.jsonl",
        "train.groups",
        "validation.groups",
        "test.groups",
        "manifest.json",
    }


def test_same_data_and_recipe_have_the_same_hash_however_many_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = set()
    effects = []
    for processes, part_bytes, number in ((1, 2**20, 1), (2, 2000, 3)):
        monkeypatch.setattr(clean, "parts_of", lambda f, size=part_bytes: shards.parts_of(f, part_bytes=size))
        folder = write_records(tmp_path / str(number), MESSY, shards=number)
        manifest = freeze(folder, EVERYTHING, tmp_path / f"v{number}", parent="", processes=processes)
        hashes.add((manifest.content_hash, *(split.groups for split in manifest.splits.values())))
        effects.append(manifest.effects)
    assert len(hashes) == 1
    assert effects[0] == effects[1]
    other = freeze(folder, Recipe(split=Split(salt="else")), tmp_path / "other", parent="")
    assert other.content_hash not in hashes


def test_no_near_duplicates_and_no_group_lie_across_splits(tmp_path: Path) -> None:
    pairs = [chat(sentence(n, 10), sentence(-n - 1) + tail) for n in range(60) for tail in ("", " so", " no")]
    people = [
        Record(chat(sentence(f"a{n}"), sentence(f"b{n}")), 0, n + 1, "", f"person {n % 9}") for n in range(60)
    ]
    recipe = Recipe(deduplicate="", split=Split(0.3, 0.3))
    folder = write_records(tmp_path / "work", [*pairs, *people])
    freeze(folder, recipe, tmp_path / "version", parent="")
    contents = frozen(tmp_path / "version")
    assert all(len(some) > 20 for some in contents.values())
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        first, second = fingerprints_of(contents[one]).sketches, fingerprints_of(contents[other]).sketches
        for sketch in first:
            assert similarity(sketch[None], second).max() < 0.8
    split_of = {ex.messages[0].content: name for name, some in contents.items() for ex in some}  # type: ignore[union-attr]
    for person in range(9):
        theirs = {split_of[r.example.messages[0].content] for r in people if r.group == f"person {person}"}  # type: ignore[union-attr]
        assert len(theirs) == 1


def test_what_nearly_repeats_a_member_of_a_group_goes_where_the_group_goes(tmp_path: Path) -> None:
    records: list[Record] = []
    for n in range(40):
        texts = sentence(f"a{n}", 20), sentence(f"c{n}", 20)
        records += [Record(chat(text, "yes"), 0, len(records) + 1, "", f"person {n}") for text in texts]
        records.append(Record(chat(texts[0] + " so", "yes"), 0, len(records) + 1))
    folder = write_records(tmp_path / "work", records)
    freeze(folder, Recipe(deduplicate="", split=Split(0.3, 0.3)), tmp_path / "version", parent="")
    contents = frozen(tmp_path / "version")
    split_of = {ex.messages[0].content: name for name, some in contents.items() for ex in some}  # type: ignore[union-attr]
    placed = [split_of[r.example.messages[0].content] for r in records]  # type: ignore[union-attr]
    assert set(placed) == {*SPLITS}
    assert all(len({*placed[n : n + 3]}) == 1 for n in range(0, len(placed), 3))


def test_every_label_is_learnt_from_wherever_chance_would_put_its_few_examples(tmp_path: Path) -> None:
    common = [labelled(sentence(n, 8), "ab"[n % 2]) for n in range(30)]
    rare = [labelled(sentence(f"rare {n}", 8), f"rare {n}") for n in range(5)]
    several: list[Example] = [labelled("none of them"), labelled("two of them", "a", "x")]
    chosen = set()
    for salt in ("one", "two", "three"):
        folder = write_records(tmp_path / salt, [*common, *rare, *several])
        recipe = Recipe(split=Split(0.3, 0.3, salt))
        manifest = freeze(folder, recipe, tmp_path / f"{salt}.version", parent="")
        contents = frozen(tmp_path / f"{salt}.version")
        learnt = {label for e in contents["train"] for label in e.labels or [""]}  # type: ignore[union-attr]
        assert learnt == {"", *manifest.labels} == {"", "a", "b", "x", *(f"rare {n}" for n in range(5))}
        assert min(len(some) for some in contents.values()) > 3
        again = write_records(tmp_path / f"{salt}.again", [*several, *rare[::-1], *common[::-1]])
        freeze(again, recipe, tmp_path / f"{salt}.other", parent="")
        for split, examples in frozen(tmp_path / f"{salt}.other").items():
            assert {e.text for e in examples} == {e.text for e in contents[split]}  # type: ignore[union-attr]
        chosen.add(manifest.content_hash)
    assert len(chosen) == 3


def test_a_few_large_groups_get_about_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    sizes = [75, 40, 30, 25, 20, 10, 8, 5, 3]
    records = [
        Record(chat(sentence((p, n), 10), "yes"), 0, n + 1, "", f"person {p}")
        for p, size in enumerate(sizes)
        for n in range(size)
    ]
    for salt in ("one", "two", "three"):
        folder = write_records(tmp_path / salt, records)
        manifest = freeze(folder, Recipe(split=Split(salt=salt)), tmp_path / f"{salt}.version", parent="")
        counts = {name: split.examples for name, split in manifest.splits.items()}
        assert sum(counts.values()) == 216
        assert 18 <= counts["test"] <= 25
        assert 18 <= counts["validation"] <= 25


def test_another_salt_puts_other_examples_to_the_test(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", SIXTY)
    tests = []
    for salt in ("one", "two"):
        freeze(folder, Recipe(split=Split(0, 0.4, salt)), tmp_path / salt, parent="")
        tests.append(frozen(tmp_path / salt)["test"])
    assert tests[0]
    assert tests[1]
    assert tests[0] != tests[1]


def test_what_is_cut_to_the_same_text_is_in_one_split(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "tiny")
    shared = [sentence(n, 40) for n in range(20)]
    examples: list[Example] = [
        DocumentExample(s[:150] + " " + sentence((n, s), 200)) for s in shared for n in range(5)
    ]
    folder = write_records(tmp_path / "work", examples)
    recipe = Recipe(deduplicate="", max_tokens=100, too_long="cut", split=Split(0.4, 0.3))
    freeze(folder, recipe, tmp_path / "version", parent="", model=model)
    texts = [{example.text for example in some} for some in frozen(tmp_path / "version").values()]  # type: ignore[union-attr]
    assert [len(some) > 0 for some in texts] == [True] * 3
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]


def test_an_example_stays_in_its_split_when_others_come_or_go(tmp_path: Path) -> None:
    found: list[dict[str, str]] = []
    for name, examples in (("all", SIXTY), ("some", [*SIXTY[30:], chat("new", sentence("new"))])):
        folder = write_records(tmp_path / name, examples)
        freeze(folder, Recipe(split=Split(0.3, 0.3)), tmp_path / f"{name}.version", parent="")
        contents = frozen(tmp_path / f"{name}.version")
        found.append({ex.messages[0].content: split for split, some in contents.items() for ex in some})  # type: ignore[union-attr]
    both = found[0].keys() & found[1].keys()
    assert len(both) == 30
    assert all(found[0][text] == found[1][text] for text in both)


@pytest.mark.parametrize("split", [Split(0.5, 0.5), Split(0, 1)])
def test_there_is_always_something_to_train_on(tmp_path: Path, split: Split) -> None:
    folder = write_records(tmp_path / "work", SIXTY[:2])
    manifest = freeze(folder, Recipe(split=split), tmp_path / "version", parent="")
    assert manifest.splits["train"].examples >= 1


def test_nothing_of_what_is_redacted_is_left(tmp_path: Path) -> None:
    texts = ["mail eve@example.com", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "+49 30 1234567"]
    recipe = Recipe(redact=["email", "card", "iban"], split=ALL_TRAIN)
    left = train_of(tmp_path, recipe, [chat(f"{text} {sentence(text)}", f"It is {text}.") for text in texts])
    kinds = {f.kind for e in left for m in e.messages for f in find_personal(m.content)}  # type: ignore[union-attr]
    assert kinds == {"phone"}
    assert "It is [IBAN]." in {e.messages[1].content for e in left}  # type: ignore[union-attr]


def test_what_is_the_same_once_it_is_redacted_is_a_duplicate(tmp_path: Path) -> None:
    examples: list[Example] = [chat(f"I am {name}@example.com", "Hello") for name in ("eve", "bob", "ann")]
    assert len(train_of(tmp_path, Recipe(redact=["email"], split=ALL_TRAIN), examples)) == 1


def test_what_is_in_the_evaluation_data_is_left_out(tmp_path: Path) -> None:
    other = write_records(tmp_path / "other", SIXTY[:5])
    recipe = Recipe(split=ALL_TRAIN)
    assert train_of(tmp_path, recipe, [*SIXTY], evaluation=[other / "records"]) == SIXTY[5:]


def test_a_chat_that_is_too_long_ends_after_an_answer(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "tiny")
    long = chat("one", "1", "two", "2 " * 100)
    longer = chat("one", "word " * 200)
    recipe = Recipe(max_tokens=120, too_long="cut", split=ALL_TRAIN)
    cut, shortened = train_of(tmp_path, recipe, [long, longer], model=model)
    assert cut == chat("one", "1")
    assert isinstance(shortened, ChatExample)
    answer = shortened.messages[1].content
    assert answer == ("word " * 200)[: len(answer)]
    assert answer.endswith("word")
    assert 60 < len(answer) < 120


def test_where_a_long_chat_ends_is_found_without_a_look_at_each_of_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, looked_at = model_folder(tmp_path / "tiny"), 0
    encode_all = Encoder.encode_all

    def counting(encoder: Encoder, examples: Sequence[Example]) -> Any:
        nonlocal looked_at
        looked_at += len(examples)
        return encode_all(encoder, examples)

    monkeypatch.setattr(Encoder, "encode_all", counting)
    texts = [sentence(n, 2) for n in range(60)]
    (cut,) = train_of(
        tmp_path, Recipe(max_tokens=300, too_long="cut", split=ALL_TRAIN), [chat(*texts)], model=model
    )
    assert isinstance(cut, ChatExample)
    assert [message.content for message in cut.messages] == texts[: len(cut.messages)]
    monkeypatch.undo()
    one_more = chat(*texts[: len(cut.messages) + 2])
    encoder = open_encoder(str(model))[1]
    assert [len(encoder.encode(each).ids) <= 300 for each in (cut, one_more)] == [True, False]
    assert looked_at < 12


def test_what_is_too_long_is_dropped_and_what_just_fits_is_not(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "tiny")
    around = 1 + 5 + 3 + 1 + 1 + 1 + 10 + 1  # of "one": markers, roles and newlines
    fits, over = chat("one", "x" * (100 - around)), chat("one", "y" * (101 - around))
    recipe = Recipe(max_tokens=100, too_long="drop", split=ALL_TRAIN)
    assert train_of(tmp_path, recipe, [fits, over], model=model) == [fits]


def test_half_a_translation_is_none(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "tiny")
    kept = TranslationExample("eins", "one")
    recipe = Recipe(max_tokens=120, too_long="cut", split=ALL_TRAIN)
    assert train_of(tmp_path, recipe, [kept, TranslationExample("zwei " * 50, "two")], model=model) == [kept]


def test_a_length_without_a_model_is_refused(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", SIXTY)
    with pytest.raises(DataError, match="model") as caught:
        preview(folder, Recipe(max_tokens=10, too_long="drop"), tmp_path / "scratch")
    assert caught.value.code == "no_model"


def test_missing_fields_are_dropped_or_filled(tmp_path: Path) -> None:
    examples: list[Example] = [labelled("good", "a"), labelled(" ", "b"), labelled("which?", "")]
    recipe = Recipe(missing="fill", missing_fill="(nothing)", split=ALL_TRAIN)
    assert train_of(tmp_path / "fill", recipe, examples) == [
        labelled("good", "a"),
        labelled("(nothing)", "b"),
        labelled("which?", "(nothing)"),
    ]
    assert read_manifest(tmp_path / "fill" / "version").labels == ["(nothing)", "a", "b"]
    (effect,) = [
        effect
        for effect in preview(tmp_path / "fill" / "work", recipe, tmp_path / "scratch")
        if effect.step == "missing"
    ]
    assert (effect.changed, effect.samples[1]) == (2, ("", "(nothing)"))
    assert train_of(tmp_path / "drop", Recipe(split=ALL_TRAIN), examples) == [labelled("good", "a")]
    assert read_manifest(tmp_path / "drop" / "version").labels == ["a"]
    several: list[Example] = [labelled("none of them"), labelled("one", "a")]
    assert train_of(tmp_path / "several", Recipe(split=ALL_TRAIN), several) == several


def test_only_training_texts_are_augmented_and_always_the_same(tmp_path: Path) -> None:
    examples = [labelled(sentence(n, 8), "a" if n % 2 else "b") for n in range(40)]
    recipe = Recipe(augment=Augment(copies=2, typo=0.1), split=Split(0.3, 0.3))
    folder = write_records(tmp_path / "work", [*examples, labelled("one", "a")])
    manifest = freeze(folder, recipe, tmp_path / "version", parent="")
    assert without_samples(preview(folder, recipe, tmp_path / "scratch")) == manifest.effects
    contents = frozen(tmp_path / "version")
    added = [e for e in contents["train"] if e not in examples and e != labelled("one", "a")]
    assert len(added) == manifest.effects[-2].added == 2 * sum(e in examples for e in contents["train"])
    assert manifest.splits["train"].examples == manifest.effects[-1].splits["train"] == len(contents["train"])
    assert manifest.labels == ["a", "b"]
    assert all(isinstance(e, LabelledExample) and e.labels in (["a"], ["b"]) for e in added)
    assert all(e in examples or e == labelled("one", "a") for e in contents["test"] + contents["validation"])
    assert freeze(folder, recipe, tmp_path / "again", parent="").content_hash == manifest.content_hash


def test_nothing_to_learn_from_is_a_typed_error_and_leaves_nothing(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "work", [chat("a", " "), ChatExample([Message("user", "b")])])
    for recipe in (Recipe(), Recipe(drop_empty=False)):
        with pytest.raises(DataError, match="learn") as caught:
            freeze(folder, recipe, tmp_path / "version", parent="")
        assert caught.value.code == "nothing_to_learn"
    assert [file.name for file in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("stage", ["cleaning", "splitting", "writing"])
@pytest.mark.parametrize("processes", [1, 2])
def test_cancelling_at_any_time_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, processes: int
) -> None:
    monkeypatch.setattr(clean, "parts_of", lambda folder: shards.parts_of(folder, part_bytes=10_000))
    folder = write_records(tmp_path / "work", MESSY)

    def cancel(now: str, done: int, total: int) -> None:
        if now == stage and done:
            raise Cancelled

    with pytest.raises(Cancelled):
        freeze(folder, EVERYTHING, tmp_path / "version", parent="", progress=cancel, processes=processes)
    assert [file.name for file in tmp_path.iterdir()] == ["work"]
    assert [file.name for file in folder.iterdir()] == ["records"]


def test_a_full_disk_is_a_typed_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_records(tmp_path / "work", SIXTY)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(aside, "_sync", full)
    with pytest.raises(DataError, match="disk is full") as caught:
        freeze(folder, Recipe(), tmp_path / "version", parent="")
    assert caught.value.code == "disk_full"
    assert [file.name for file in tmp_path.iterdir()] == ["work"]


def test_what_a_killed_freeze_left_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "version.partial").mkdir()
    (tmp_path / "version.partial" / "train.jsonl").write_text("half")
    freeze(write_records(tmp_path / "work", SIXTY), Recipe(), tmp_path / "version", parent="")
    assert {file.name for file in tmp_path.iterdir()} == {"work", "version"}
