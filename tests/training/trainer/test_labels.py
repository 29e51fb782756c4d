"""Labels and numbers are learnt with transformers' losses, saved as PEFT reads them, and divided into folds."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification

from tests.training.datasets.records import sentence, write_records
from tests.training.trainer.conftest import freeze
from training.datasets import clean
from training.datasets.examples import Example, LabelledExample, Record
from training.datasets.frozen import check_files, read_manifest
from training.datasets.problems import DataError
from training.datasets.recipe import Augment, Recipe, Split
from training.encoding import Encoder
from training.trainer.classifier import load
from training.trainer.data import Span, TokenizedSplit, packed
from training.trainer.failures import TrainingFailure
from training.trainer.folds import Examples
from training.trainer.learner import Learner
from training.trainer.objective import objective_of
from training.trainer.spec import Lora, Spec

CPU = torch.device("cpu")
PROBLEMS = {
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


def text_of(n: int) -> str:
    """Of different lengths, and each another one."""
    words = ["fox", "dog", "jumps", "over", "lazy", "quick"]
    return " ".join(words[(n * k) % 6] for k in range(1, 2 + n % 5)) + f" {n}"


def example(kind: str, n: int) -> Example:
    if kind == "regression":
        return LabelledExample(text_of(n), value=3.0 * (n % 7) - 100)
    labels = ["a", "b", "c"]
    return LabelledExample(
        text_of(n),
        [labels[n % 3]] if kind == "multiclass" else [x for i, x in enumerate(labels) if n >> i & 1],
    )


class Learnt:
    """A learner of a kind of labels, and what it learns from."""

    def __init__(self, kind: str, base: Path, folder: Path, **changes: object) -> None:
        dataset = folder / "data"
        if not dataset.exists():
            freeze(dataset, "labelled", train=[example(kind, n) for n in range(24)])
        task = "regression" if kind == "regression" else "classification"
        values = {"base": str(base), "dataset": str(dataset), "output": "", "task": task} | changes
        self.spec = Spec(**values)  # type: ignore[arg-type]
        self.objective = objective_of(self.spec, lambda: None)
        self.learner = Learner(self.spec, self.objective, "fp32", CPU)
        loaded = self.learner.loaded
        encoder = Encoder(loaded.tokenizer, loaded.template)
        self.split: TokenizedSplit = self.objective.read("train", encoder, lambda: None)

    def gradients(self, passes: list[list[Span]]) -> dict[str, torch.Tensor]:
        parameters = self.learner.parameters
        for parameter in parameters.values():
            parameter.grad = None
        counted = sum(span.trained for spans in passes for span in spans)
        for spans in passes:
            batch = self.split.batch(spans, CPU)
            (self.learner.summed_loss(batch, training=True) / counted).backward()
        return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    scale = max(float(value.norm()) for value in theirs.values())
    for name, value in theirs.items():
        assert float((ours[name] - value).norm()) <= 1e-5 * scale, name


# --- Against others -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", sorted(PROBLEMS))
def test_logits_loss_and_gradients_are_those_of_transformers_and_peft(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    learnt = Learnt(kind, tiny_base, tmp_path, lora=Lora(r=4, alpha=8))
    learner = learnt.learner
    assert learner.adapter is not None
    with torch.no_grad():
        for parameter in learner.adapter.b.values():
            torch.nn.init.normal_(parameter, std=0.05)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name, data in learner.served_files(1024).items():
        (adapter / name).write_bytes(data)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_base, num_labels=learnt.objective.outputs, problem_type=PROBLEMS[kind], pad_token_id=None
    )
    theirs = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    ours = load(adapter, tiny_base, dtype="fp32")
    spans = learnt.split.spans(1024)[:6]
    loss = torch.zeros(())
    for span in spans:
        batch = learnt.split.batch([span], CPU)
        out = theirs(batch.ids.unsqueeze(0), labels=batch.targets)
        loss = loss + out.loss
        found = {
            "multiclass": out.logits.softmax(-1),
            "multilabel": out.logits.sigmoid(),
            "regression": out.logits * ours.card.std + ours.card.mean,
        }[kind]
        predicted = ours.predict([text_of(span.line - 1)])
        torch.testing.assert_close(torch.tensor(predicted), found.detach(), rtol=1e-4, atol=1e-5)
    batch = learnt.split.batch(spans, CPU)
    assert float(learner.summed_loss(batch, training=False)) == pytest.approx(float(loss), rel=1e-5)
    (loss / len(spans)).backward()
    gradients = learnt.gradients([spans])
    wanted = {}
    for name, parameter in theirs.named_parameters():
        if parameter.grad is None:
            continue
        parts = name.split(".")
        if "score" in parts:
            wanted["score.weight"] = parameter.grad
        else:
            wanted[f"{parts[7].removeprefix('lora_').lower()}.{parts[4]}_{parts[6]}"] = parameter.grad
    assert_close(gradients, wanted)


def test_smoothing_and_weights_are_those_of_torch_and_only_of_the_training(
    tiny_base: Path, tmp_path: Path
) -> None:
    examples: list[Example] = [LabelledExample(text_of(n), ["b" if n % 4 else "a"]) for n in range(24)]
    freeze(tmp_path / "data", "labelled", train=examples)
    plain = Learnt("binary", tiny_base, tmp_path)
    changed = Learnt("binary", tiny_base, tmp_path, label_smoothing=0.2, class_weights="balanced")
    batch = plain.split.batch(plain.split.spans(1024), CPU)
    hidden, head = torch.randn(24, 48), torch.randn(2, 48)
    weights = torch.tensor([24 / (2 * 6), 24 / (2 * 18)])  # scikit-learn's "balanced"
    wanted = F.cross_entropy(
        hidden @ head.t(), batch.targets, weight=weights, label_smoothing=0.2, reduction="none"
    ).sum()
    found = changed.objective.summed_loss(hidden, head, batch.targets, training=True)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    judged = [x.objective.summed_loss(hidden, head, batch.targets, training=False) for x in (plain, changed)]
    assert judged[0] == judged[1]


def test_several_labels_are_smoothed_and_weighted_each_by_itself(tiny_base: Path, tmp_path: Path) -> None:
    changed = Learnt("multilabel", tiny_base, tmp_path, label_smoothing=0.2, class_weights="balanced")
    batch = changed.split.batch(changed.split.spans(1024), CPU)
    hidden, head = torch.randn(24, 48), torch.randn(3, 48)
    there = batch.targets.sum(dim=0)
    wanted = F.binary_cross_entropy_with_logits(
        hidden @ head.t(), batch.targets * 0.8 + 0.1, pos_weight=(24 - there) / there, reduction="none"
    )
    found = changed.objective.summed_loss(hidden, head, batch.targets, training=True)
    assert float(found) == pytest.approx(float(wanted.mean(dim=1).sum()), rel=1e-5)


@pytest.mark.parametrize("kind", sorted(PROBLEMS))
def test_packing_and_accumulation_change_no_gradient(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    learnt = Learnt(kind, tiny_base, tmp_path)
    spans = learnt.split.spans(1024)[:8]
    alone = learnt.gradients(packed(spans, 1024, 1, packing=False))
    for passes in (packed(spans, 1024, 1), packed(spans, 1024, 8), packed(spans, 16, 1)):
        assert_close(learnt.gradients(passes), alone)


def test_a_text_that_is_cut_is_judged_by_the_last_token_that_is_left(tiny_base: Path, tmp_path: Path) -> None:
    learnt = Learnt("multiclass", tiny_base, tmp_path)
    spans = learnt.split.spans(4)
    batch = learnt.split.batch(spans, CPU)
    assert {span.length for span in spans} == {min(length, 4) for length in learnt.split.lengths}
    assert batch.rows.tolist() == (torch.tensor(batch.lengths).cumsum(0) - 1).tolist()


# --- Folds ----------------------------------------------------------------------------------------------------
def texts(examples: Examples, use: str) -> list[str]:
    return [e.text for _, e in examples.of(use) if isinstance(e, LabelledExample)]  # type: ignore[arg-type]


def test_every_example_is_held_back_once_and_each_label_about_as_often_in_every_fold(tmp_path: Path) -> None:
    examples = [LabelledExample(text_of(n), ["rare" if n % 8 == 0 else "common"]) for n in range(40)]
    others = [LabelledExample(text_of(n), ["common"]) for n in range(40, 50)]
    folder = freeze(tmp_path / "d", "labelled", train=[*examples], validation=[*others], test=[*others])
    folds = [Examples(folder, 5, fold) for fold in range(1, 6)]
    held = [texts(fold, "test") for fold in folds]
    assert [len(some) for some in held] == [8] * 5
    assert sorted(text for some in held for text in some) == sorted(e.text for e in examples)
    rare = {e.text for e in examples if e.labels == ["rare"]}
    assert [len(rare & {*some}) for some in held] == [1] * 5
    for fold, some in zip(folds, held, strict=True):
        assert sorted(texts(fold, "train") + some) == sorted(e.text for e in examples)
        assert texts(fold, "validation") == [e.text for e in others]
        assert texts(Examples(folder, 5, folds.index(fold) + 1), "test") == some
    lines = {line for fold in folds for line, _ in fold.of("test")}
    assert lines == set(range(1, 41))


def test_texts_that_are_the_same_are_in_one_fold_whatever_their_label(tmp_path: Path) -> None:
    once = [LabelledExample(f"{text_of(n)}", ["a" if n % 2 else "b"]) for n in range(12)]
    again = [LabelledExample(f" {e.text.upper()} ", ["b" if e.labels == ["a"] else "a"]) for e in once]
    folder = freeze(tmp_path / "d", "labelled", train=[*once, *again])
    for fold in range(1, 4):
        held = [text.strip().lower() for text in texts(Examples(folder, 3, fold), "test")]
        assert len(held) == 8
        assert all(held.count(text) == 2 for text in held)


def test_what_belongs_together_is_in_one_fold(tmp_path: Path) -> None:
    """As a dataset is frozen: what is nearly the same, what is of one person, and what is made of one text."""
    near = [[sentence(n), f"{sentence(n)} indeed"] for n in range(6)]
    persons = [[sentence(f"{n}{letter}") for letter in "abc"] for n in range(6)]
    records = [Record(LabelledExample(text, ["a"]), 0, 1) for pair in near for text in pair]
    for n, some in enumerate(persons):
        records += [Record(LabelledExample(text, ["b"]), 0, 1, group=f"person {n}") for text in some]
    made = Recipe(split=Split(validation=0, test=0), augment=Augment(copies=2))
    clean.freeze(write_records(tmp_path, records), made, tmp_path / "version", parent="")
    folds = [texts(Examples(tmp_path / "version", 3, fold), "test") for fold in (1, 2, 3)]
    assert [len(held) for held in folds] == [2 * 2 * 3 + 2 * 3 * 3] * 3
    for together in near + persons:
        (held,) = (held for held in folds if {*together} & {*held})
        assert {*together} <= {*held}
    texts_frozen = {text for together in near + persons for text in together}
    for held in folds:
        words = {word for text in held if text in texts_frozen for word in text.split()}
        copies = [text.split() for text in held if text not in texts_frozen]
        assert all(len({*copy} & words) > 0.5 * len(copy) for copy in copies)


def test_groups_that_are_not_what_was_frozen_are_a_broken_dataset(tmp_path: Path) -> None:
    records = [Record(LabelledExample(sentence(n), ["ab"[n % 2]]), 0, n) for n in range(8)]
    folder = tmp_path / "version"
    clean.freeze(write_records(tmp_path, records), Recipe(), folder, parent="")
    (folder / "train.groups").write_bytes(b"12345678")
    with pytest.raises(DataError, match=r"train\.groups"):
        Examples(folder, 2, 1)
    with pytest.raises(DataError, match=r"train\.groups"):
        check_files(folder, read_manifest(folder), lambda: None)


def test_a_label_that_stands_alone_is_learnt_from_in_every_fold(tmp_path: Path) -> None:
    common = [LabelledExample(sentence(n), ["ab"[n % 2]]) for n in range(12)]
    alone: list[Example] = [
        LabelledExample("x y", ["c"]),
        LabelledExample("y z", ["a", "d"]),
        LabelledExample("z x", ["d", "e"]),
    ]
    folder = freeze(tmp_path / "d", "labelled", train=[*common, *alone])
    for fold in (1, 2, 3):
        spec = Spec(base="", dataset=str(folder), output="", task="classification", folds=3, fold=fold)
        objective_of(spec, lambda: None)  # raises where a label is held back and not learnt
        held = texts(Examples(folder, 3, fold), "test")
        assert len(held) >= 4
        assert "x y" not in held
    folder = freeze(tmp_path / "e", "labelled", train=alone)
    with pytest.raises(TrainingFailure, match="Too few texts have a label"):
        Examples(folder, 3, 1)


def test_more_folds_than_different_texts_are_refused(tmp_path: Path) -> None:
    folder = freeze(tmp_path / "d", "labelled", train=[LabelledExample("x", ["a"])] * 9)
    with pytest.raises(TrainingFailure, match="1 different texts"):
        Examples(folder, 3, 1)


# --- What cannot be learnt from ----------------------------------------------------------------------------------
A, B, BOTH = LabelledExample("x", ["a"]), LabelledExample("y", ["b"]), LabelledExample("z", ["a", "b"])
ONE, TWO = LabelledExample("x", value=1.0), LabelledExample("y", value=2.0)


@pytest.mark.parametrize(
    ("task", "train", "test", "sentence"),
    [
        ("classification", [LabelledExample("x")], [], "No example to learn from has a label"),
        ("classification", [LabelledExample("x", [""])] * 2, [], "No example to learn from has a label"),
        ("classification", [ONE, TWO], [], "No example to learn from has a label"),
        ("classification", [A, A], [], 'has the same label, "a"'),
        ("classification", [BOTH, BOTH], [], 'has the same label, "a", "b"'),
        ("classification", [A, B], [LabelledExample("v", ["c"])], '"c" occurs in the test split'),
        (
            "classification",
            [LabelledExample(str(n), [str(n)]) for n in range(1001)],
            [],
            "at most 1000 apart",
        ),
        ("regression", [A, B], [], "No example to learn from has a number"),
        ("regression", [ONE, ONE], [], "has the number 1"),
        ("regression", [ONE, LabelledExample("y", value=1e300)], [], "too large or too close"),
        ("regression", [ONE, *[LabelledExample("y", value=1e308)] * 2], [], "too large or too close"),
        (
            "regression",
            [LabelledExample("y", value=sign * 1e308) for sign in (1, 1, -1, -1)],
            [],
            "too large or too close",
        ),
        ("language", [A, B], [], "The dataset holds labelled texts"),
    ],
)
def test_data_with_nothing_to_tell_apart_is_refused_in_a_sentence(
    task: str, train: list[Example], test: list[Example], sentence: str, tmp_path: Path
) -> None:
    folder = freeze(tmp_path / "d", "labelled", train=train, test=test)
    spec = Spec(base="", dataset=str(folder), output="", task=task)  # type: ignore[arg-type]
    with pytest.raises(TrainingFailure, match=sentence) as failure:
        objective_of(spec, lambda: None)
    assert failure.value.code == "data"


def test_conversations_are_not_classified(chats: Path) -> None:
    spec = Spec(base="", dataset=str(chats), output="", task="classification")
    with pytest.raises(TrainingFailure, match="the dataset is of the kind chat"):
        objective_of(spec, lambda: None)


def test_a_text_without_a_label_or_without_a_token_is_left_out_and_told(
    tiny_base: Path, tmp_path: Path
) -> None:
    freeze(
        tmp_path / "data", "labelled", train=[A, LabelledExample("x", [""]), B, LabelledExample("", ["a"])]
    )
    learnt = Learnt("binary", tiny_base, tmp_path)
    assert learnt.split.refused == [(2, "The text has no label."), (4, "The text is empty.")]
    assert [span.line for span in learnt.split.spans(1024)] == [1, 3]


def test_a_classifier_is_not_put_on_another_model_nor_read_from_what_is_none(
    tiny_base: Path, tmp_path: Path
) -> None:
    learnt = Learnt("multiclass", tiny_base, tmp_path)
    for name, data in learnt.learner.served_files(1024).items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="Text 2"):
        load(tmp_path, tiny_base, dtype="fp32").predict(["fox", ""])
    card = tmp_path / "classifier.json"
    said = json.loads(card.read_text())
    card.write_text(json.dumps(said | {"threshold": 0.5}))  # as cards were written once
    assert load(tmp_path, tiny_base, dtype="fp32").predict(["fox"])
    card.write_text(json.dumps(said | {"base": "0" * 64}))
    with pytest.raises(TrainingFailure, match="another model"):
        load(tmp_path, tiny_base)
    with pytest.raises(TrainingFailure, match="name the model"):
        load(tmp_path)
    card.write_text("{}")
    with pytest.raises(TrainingFailure, match="cannot be read"):
        load(tmp_path, tiny_base)
