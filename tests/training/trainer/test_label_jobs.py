"""A job that classifies or predicts numbers, from its spec to what it leaves behind and how that is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import msgspec
import pytest
import torch
from sklearn import metrics
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from inference.installation import inspect_adapter, inspect_model
from tests.inference.tiny_models import save_gguf
from tests.services import ROOT
from tests.training.trainer import started
from tests.training.trainer.conftest import freeze
from tests.training.trainer.jobs import Bench, Trained
from training.datasets.examples import Example, LabelledExample
from training.trainer import scoring
from training.trainer.classifier import load
from training.trainer.evaluation import Classification, Regression, summarise_folds
from training.trainer.failures import EXIT_STATUS
from training.trainer.survey import Survey

WORDS = ["fox", "dog", "lazy", "quick"]


def example(kind: str, n: int) -> Example:
    """The last word says which label or number it is, so a few steps are enough."""
    word = n % 3
    text = f"{n} the {WORDS[n // 3 % 4]} " + ["jumps", "sleeps", "morning"][word]
    match kind:
        case "regression":
            return LabelledExample(text, value=[10.0, 20.0, 60.0][word])
        case "multilabel":
            return LabelledExample(text, [["jumps"], [], ["jumps", "morning"]][word])
        case "binary":
            return LabelledExample(text, [["no", "yes", "yes"][word]])
        case _:
            return LabelledExample(text, [["a", "b", "c"][word]])


def dataset(folder: Path, kind: str, *, test: bool = True) -> Path:
    return freeze(
        folder,
        "labelled",
        train=[example(kind, n) for n in range(36)],
        validation=[example(kind, n) for n in range(36, 48)],
        test=[example(kind, n) for n in range(48, 69)] if test else [],
    )


@pytest.fixture
def bench(tmp_path: Path, tiny_base: Path) -> Bench:
    return Bench(tmp_path, tiny_base, dataset(tmp_path / "data", "multiclass"))


def evaluation(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


# --- From a spec to a judgement -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_a_classifier_learns_and_is_judged_as_it_was_saved(kind: str, bench: Bench) -> None:
    bench.dataset = dataset(bench.folder / kind, kind)
    done = bench.run(task="classification", max_steps=24, checkpoint_every=12, lora={"dropout": 0.1})
    assert done.exit_status == 0
    assert done.status["result"] == "adapter"
    assert done.status["best_validation_loss"] < 0.5 * done.status["base_validation_loss"]
    found = evaluation(done.output)
    msgspec.convert(found, Classification)
    assert (found["kind"], found["split"], found["examples"]) == (kind, "test", 21)
    assert found["accuracy"] > 0.9 > found["majority"]["accuracy"]
    # What is read back from the disk says the same, and scikit-learn makes the same figures of it.
    classifier = load(done.output / "adapter", bench.base, dtype="fp32")
    examples = [example(kind, n) for n in range(48, 69)]
    outputs = torch.tensor(classifier.predict([e.text for e in examples]))  # type: ignore[union-attr]
    truth = [[label in e.labels for label in found["labels"]] for e in examples]  # type: ignore[union-attr]
    answers = outputs >= 0.5 if kind == "multilabel" else outputs == outputs.amax(dim=1, keepdim=True)
    wanted = metrics.precision_recall_fscore_support(truth, answers, average="macro", zero_division=0)
    assert [found["macro"][name] for name in ("precision", "recall", "f1")] == pytest.approx(wanted[:3])
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, answers))
    assert found["macro"]["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, outputs))
    (line,) = done.lines("evaluation")
    assert (line["accuracy"], line["split"], line["step"]) == (found["accuracy"], "test", found["step"])
    steps = done.lines("step")
    assert steps[0]["trained_tokens"] == 4  # examples
    assert inspect_adapter(done.output / "adapter", bench.base).is_classifier


def test_numbers_are_learnt_and_judged_in_their_own_unit(bench: Bench) -> None:
    bench.dataset = dataset(bench.folder / "numbers", "regression", test=False)
    done = bench.run(task="regression", max_steps=30, checkpoint_every=30)
    found = evaluation(done.output)
    msgspec.convert(found, Regression)
    assert (found["split"], found["examples"]) == ("validation", 12)
    assert found["r2"] > 0.8
    assert found["mse"] < 0.2 * found["mean_mse"]
    assert found["mean_mse"] == pytest.approx(466.7, abs=1)
    classifier = load(done.output / "adapter", bench.base, dtype="fp32")
    (predicted,) = zip(*classifier.predict([example("", n).text for n in range(36, 48)]), strict=True)  # type: ignore[union-attr]
    assert [row[1] for row in found["scatter"]] == pytest.approx(predicted, rel=1e-4)
    # Of what was validated, too: the loss is that of standardised numbers.
    assert done.status["best_validation_loss"] == pytest.approx(found["mse"] / found["mean_mse"], rel=1e-3)


def test_all_weights_of_a_classifier_are_left_as_transformers_reads_them(bench: Bench) -> None:
    done = bench.run(task="classification", method="full", max_steps=8, checkpoint_every=8)
    model = done.output / "model"
    assert inspect_model(model).is_classifier
    theirs = AutoModelForSequenceClassification.from_pretrained(model).float()
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    texts = [example("", n).text for n in range(48, 54)]  # type: ignore[union-attr]
    with torch.no_grad():
        wanted = [theirs(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0] for text in texts]
    torch.testing.assert_close(
        torch.tensor(load(model, dtype="fp32").predict(texts)), torch.stack(wanted), rtol=1e-4, atol=1e-5
    )


def test_a_classifier_whose_weights_two_processes_share_out_is_what_one_learns(bench: Bench) -> None:
    options: dict[str, Any] = {"task": "classification", "method": "full", "max_steps": 6}
    one = bench.run("one", **options)
    for process in started.start(bench.spec("two", fsdp=True, **options), 2):
        process.join()
        assert process.exitcode == 0
    two = Trained(bench.folder / "two", 0)
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    texts = [example("", n).text for n in range(48, 54)]  # type: ignore[union-attr]
    answers = [load(run.output / "model", dtype="fp32").predict(texts) for run in (one, two)]
    torch.testing.assert_close(torch.tensor(answers[1]), torch.tensor(answers[0]), rtol=1e-5, atol=1e-6)
    assert evaluation(two.output)["examples"] == 21


def test_all_weights_of_a_gguf_are_read_back_as_a_classifier(bench: Bench) -> None:
    bench.base = bench.folder / "base.gguf"
    save_gguf(bench.base, gguf.GGMLQuantizationType.Q8_0)
    done = bench.run(task="classification", method="full", max_steps=4, learning_rate=1e-4)
    assert done.exit_status == 0
    assert evaluation(done.output)["examples"] == 21
    assert len(load(done.output / "model", dtype="fp32").predict(["fox"])[0]) == 3
    assert inspect_model(done.output / "model").is_classifier


def test_a_fold_is_held_back_and_the_folds_are_summed_up(bench: Bench) -> None:
    found = []
    for fold in (1, 2):
        done = bench.run(f"fold{fold}", task="classification", folds=2, fold=fold, max_steps=8)
        found.append(evaluation(done.output))
        assert (found[-1]["split"], found[-1]["fold"], found[-1]["folds"]) == ("fold", fold, 2)
        (data,) = done.lines("data")
        assert data["examples"] == 36 - found[-1]["examples"] == 18
        assert data["validation_examples"] == 12  # chooses the checkpoint
    summed = summarise_folds(found)
    accuracies = [each["accuracy"] for each in found]
    assert (summed["folds"], summed["examples"]) == (2, 36)
    assert summed["figures"]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert summed["figures"]["accuracy"]["std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)


def test_without_anything_to_judge_by_it_succeeds_unjudged(bench: Bench) -> None:
    bench.dataset = freeze(bench.folder / "d", "labelled", train=[example("binary", n) for n in range(9)])
    done = bench.run(task="classification", max_steps=2)
    assert done.status["state"] == "succeeded"
    assert not (done.output / "evaluation.json").exists()
    assert done.lines("evaluation") == []


# --- Interrupted, refused -------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_classifier_that_goes_on_from_a_checkpoint_is_the_same(method: str, bench: Bench) -> None:
    options: dict[str, Any] = {"task": "classification", "method": method, "lora": {"dropout": 0.2}}
    whole = bench.run("whole", **options)
    cut = bench.run("cut", **options)
    for last in sorted((cut.output / "checkpoints").iterdir())[-1:]:
        (last / "manifest.json").unlink()
    (cut.output / "metrics.jsonl").unlink()
    (cut.output / "evaluation.json").unlink()
    again = bench.run("cut", **options)
    assert again.lines("resumed")[0]["exact"]
    assert 0 < len(again.losses) < 6
    assert again.losses == {step: whole.losses[step] for step in again.losses}
    (result,) = {"adapter", "model"} & {folder.name for folder in cut.output.iterdir()}
    for file in (whole.output / result).iterdir():
        assert file.read_bytes() == (cut.output / result / file.name).read_bytes()
    assert evaluation(cut.output) == evaluation(whole.output)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"folds": 2, "fold": 1}, "folds is only for"),
        ({"class_weights": "balanced"}, "class_weights is only for"),
        ({"task": "classification", "validation_length": 64}, "validation_length is only for"),
        ({"task": "classification", "folds": 1}, "may be 0 or from 2 to 20"),
        ({"task": "classification", "folds": 3}, "fold is 0 and may be from 1 to 3"),
        ({"task": "classification", "folds": 3, "fold": 4}, "from 1 to 3"),
        ({"task": "classification", "fold": 1}, "where there are folds"),
        ({"task": "classification", "prompts": ["fox"]}, "prompts are only for language"),
        ({"task": "regression", "label_smoothing": 0.1}, "regression has none"),
        ({"task": "regression", "class_weights": "balanced"}, "regression has none"),
    ],
)
def test_knobs_of_another_task_are_refused(
    changes: dict[str, Any], named: str, bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(**changes).exit_status == EXIT_STATUS["spec"]
    assert named in json.loads(capfd.readouterr().err)["message"]


# --- Judged ------------------------------------------------------------------------------------------------------
ABOUT = {"split": "test", "fold": 0, "folds": 0, "examples": 3, "refused": 0, "step": 1}


def classified(kind: str, labels: str, outputs: list[list[float]], targets: list[tuple[int, ...]]) -> Any:
    survey = Survey(kind, 9, list(labels), [1] * len(labels), (labels[0],))  # type: ignore[arg-type]
    found = msgspec.json.encode(scoring.score(survey, outputs, targets, ABOUT))
    assert b"NaN" not in found
    return msgspec.json.decode(found)


def test_one_label_alone_has_no_curve_and_says_why() -> None:
    found = classified("binary", "ab", [[0.9, 0.1], [0.6, 0.4]], [(0,), (0,)])
    assert found["accuracy"] == 1.0
    assert found["macro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "roc_auc": None}
    assert found["confusion"] == [[2, 0], [0, 0]]
    assert "macro.roc_auc" in found["reasons"]
    there, missing = found["classes"]
    assert there["reasons"] == dict.fromkeys(["roc_auc", "roc"], "Every example has this label.")
    assert {"precision", "recall", "f1", "roc_auc", "roc"} == missing["reasons"].keys()
    assert [missing[name] for name in missing["reasons"]] == [None] * 5


def test_a_label_nobody_was_given_has_no_precision_and_counts_as_none_in_the_mean() -> None:
    found = classified("multiclass", "abc", [[0.9, 0.1, 0], [0.6, 0.4, 0], [0, 0.2, 0.8]], [(0,), (1,), (2,)])
    assert [one["precision"] for one in found["classes"]] == [0.5, None, 1.0]
    assert found["classes"][1]["recall"] == found["classes"][1]["f1"] == 0.0
    assert found["macro"]["precision"] == 0.5
    assert found["classes"][1]["roc"] == [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    assert found["majority"] == {"labels": ["a"], "accuracy": pytest.approx(1 / 3)}


@pytest.mark.parametrize("targets", [[(), ()], [(0,), (0,)], [(), (0,)]])
def test_one_label_that_a_text_has_or_not_is_judged_whatever_occurs(targets: list[tuple[int, ...]]) -> None:
    found = classified("multilabel", "a", [[0.2], [0.7]], targets)
    right = [(0.2 >= 0.5) == bool(targets[0]), (0.7 >= 0.5) == bool(targets[1])]
    assert found["accuracy"] == sum(right) / 2
    assert found["confusion"] is None
    assert "confusion" in found["reasons"]
    assert found["macro"]["f1"] == found["classes"][0]["f1"]


def test_what_is_drawn_is_thinned_out_and_left_out_for_very_many_labels() -> None:
    outputs = torch.rand(3000, 1, generator=torch.Generator().manual_seed(1)).tolist()
    curve = classified("multilabel", "a", outputs, [(0,) if n % 2 else () for n in range(3000)])["classes"][
        0
    ]["roc"]
    assert len(curve) == 200
    assert (curve[0], curve[-1]) == ([0.0, 0.0], [1.0, 1.0])
    numbers = scoring.score(Survey("regression", 9), outputs, [float(n) for n in range(3000)], ABOUT)
    assert len(numbers.scatter) == 500  # type: ignore[union-attr]
    labels = "".join(map(chr, range(200, 301)))
    told = torch.eye(101)
    told[[17, 90]] = told[[90, 17]]
    many = classified("multiclass", labels, told.tolist(), [(n,) for n in range(101)])
    assert many["confusion"] is many["classes"][0]["roc"] is None
    assert "confusion" in many["reasons"]
    assert "roc" in many["classes"][0]["reasons"]
    # Of the matrix those stay that are confused most, and the others are counted together.
    confused = many["confused"]
    wrong = [confused["labels"].index(labels[n]) for n in (17, 90)]
    assert [confused["counts"][y][x] for y, x in (wrong, wrong[::-1])] == [1, 1]
    assert sum(map(sum, confused["counts"])) == 101
    assert confused["others"] == confused["counts"][-1][-1] == confused["others_right"] == 81
    assert many["classes"][0]["roc_auc"] == 1.0


def test_numbers_that_are_all_the_same_have_no_r2() -> None:
    found = scoring.score(Survey("regression", 9, mean=1.0, std=2.0), [[1.0], [2.0]], [3.0, 3.0], ABOUT)
    assert isinstance(found, Regression)
    assert found.r2 is None
    assert "r2" in found.reasons
    assert (found.mse, found.mae, found.mean_mse) == (2.5, 1.5, 4.0)


def test_folds_without_a_figure_are_left_out_of_its_mean() -> None:
    base = {"task": "regression", "examples": 4, "mse": 1.0, "rmse": 1.0, "mae": 1.0}
    summed = summarise_folds([base | {"r2": None}, base | {"r2": 0.5}])
    assert summed["figures"]["r2"] == {"mean": 0.5, "std": None, "folds": 1}
    assert summed["figures"]["mse"] == {"mean": 1.0, "std": 0.0, "folds": 2}


def test_the_shape_of_an_evaluation_is_known_where_there_is_no_torch() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'numpy', 'sklearn']));"
    command = [sys.executable, "-c", f"{blocked} import training.trainer.evaluation"]
    subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True)
