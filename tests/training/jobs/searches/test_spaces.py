"""What may be searched for, and by what its trials are compared."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference.models import ServedModel
from tests.training.jobs.searches.trials import Begin, State, code_of, lived, measure, now, run, trial
from training import (
    job_life,
    search_services,
    storage,
    training_worker,
)
from training.models import DatasetVersion, Job, Measurement, Search
from training.search import advance
from training.trainer.spec import MODULES

pytestmark = pytest.mark.django_db
Wish = Job.Wish


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "1 to 8 settings"),
        ({"learning_rate": {"low": 1e-9, "high": 7}}, "learning_rate is 1e-09 and may be from 1e-08 to 1"),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "learning_rate goes from 0.1 to 0.01"),
        ({"learning_rate": {"low": "a", "high": None}}, "learning_rate needs two numbers"),
        ({"learning_rate": {"low": float("nan"), "high": 1}}, "learning_rate needs two numbers"),
        ({"learning_rate": {"low": True, "high": 1}}, "learning_rate needs two numbers"),
        ({"batch_size": {"low": 1.5, "high": 4}}, "batch_size is a whole number"),
        ({"weight_decay": {"low": 0, "high": 1, "log": True}}, "weight_decay begins at 0"),
        ({"optimizer": {"low": 1, "high": 2}}, "optimizer has choices"),
        ({"optimizer": {"choices": ["adamw", "rm -rf /"]}}, "optimizer cannot be so"),
        ({"optimizer": {"choices": ["adamw"]}}, "optimizer needs 2 to 20"),
        ({"optimizer": {"choices": [["adamw"], {}]}}, "optimizer needs 2 to 20"),
        ({"base": {"choices": ["/etc/passwd", "/"]}}, "base cannot be searched for: the site sets it"),
        ({"output": {"choices": ["/etc", "/"]}}, "output cannot be searched for: the site sets it"),
        (
            {"vocabulary": {"low": 300, "high": 400}},
            "vocabulary cannot be searched for: it changes which tokens",
        ),
        (
            {"validation_length": {"low": 8, "high": 64}},
            "validation_length cannot be searched for: the site sets it",
        ),
        (
            {"keep_checkpoints": {"low": 1, "high": 4}},
            "keep_checkpoints cannot be searched for: it changes what is kept",
        ),
        (
            {"sample_tokens": {"low": 1, "high": 4}},
            "sample_tokens cannot be searched for: it changes how long",
        ),
        ({"fold": {"low": 1, "high": 4}}, "fold cannot be searched for: cross-validation varies it"),
        (
            {"method": {"choices": ["lora", "full"]}},
            "method cannot be searched for: it decides which other settings",
        ),
        ({"lora": {"choices": [1, 2]}}, "lora cannot be searched for: it is a group of settings"),
        ({"sed": {"low": 1, "high": 4}}, "sed cannot be searched for: there is no such setting"),
        ({"lora.targets": {"choices": ["all", "q_proj"]}}, "lora.targets is chosen among all, attention"),
        ({"lora.targets": {"low": 1, "high": 2}}, "lora.targets has choices"),
        ({"warmup": 3}, "warmup has neither"),
        ({"warmup": {"low": 0}}, "warmup has neither"),
        ({"dropout": {"low": 0, "high": 0.5}}, "dropout is for where all weights are learnt"),
        ({"l1": {"low": 3, "high": 4}, "size": {"low": 1, "high": 99}}, "size is 99 and may be from 1 to 32"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(space: Any, said: str, begin: Begin) -> None:
    refused = code_of(lambda: begin(space=space))
    assert refused.code == "bad_space"
    assert said in refused.message
    assert not Search.objects.exists()


def test_the_layers_of_an_adapter_are_searched_by_the_names_of_sets_and_a_seed_between_limits(
    begin: Begin,
) -> None:
    space = {"lora.targets": {"choices": ["all", "queries_values"]}, "seed": {"low": 0, "high": 99}}
    found = begin(space=space, trials=6)
    for loss in range(6):
        advance(found.id)
        run(float(loss))
    advance(found.id)
    specs = [job.spec for job in found.jobs.all()]
    assert {tuple(spec["lora"]["targets"]) for spec in specs} == {MODULES, ("q_proj", "v_proj")}
    assert len({spec["seed"] for spec in specs}) > 1
    # What the sampler learns of is read back from the jobs.
    assert now(found).result["best"] == str(trial(found, 1).id)


@pytest.mark.parametrize(
    ("kind", "task", "judged"),
    [("chat", "chat", 64), ("document", "scratch", 64), ("labelled", "classification", "auto")],
)
def test_how_much_is_read_is_searched_and_of_what_is_written_all_trials_are_judged_by_the_same(
    kind: str, task: str, judged: Any, begin: Begin, version: DatasetVersion, base: ServedModel
) -> None:
    version.kind, version.manifest = kind, {"labels": ["ham", "spam"]}
    version.save()
    begun_with = None if task == "scratch" else base
    found = begin(task=task, base=begun_with, space={"max_length": {"low": 8, "high": 64}}, spec={})
    advance(found.id)
    assert {*trial(found, 1).spec} == {"max_length"}
    assert 8 <= trial(found, 1).spec["max_length"] <= 64
    job = job_life.claim_next()
    assert job is not None
    storage.job_folder(job).mkdir(parents=True)
    written = training_worker.Supervision(job)._write_spec(storage.version_folder(version))
    assert json.loads(written.read_bytes())["validation_length"] == judged


def test_trials_that_are_judged_by_as_much_as_the_longest_reads_say_how_much_that_is(
    begin: Begin, version: DatasetVersion
) -> None:
    unsaid: dict[str, Any] = {"max_length": {"choices": ["auto", 64]}}
    refused = code_of(lambda: begin(space=unsaid))
    assert (refused.code, "the choices of max_length are numbers" in refused.message) == ("bad_space", True)
    # Of a text with a label there is one loss, however much is read of it.
    version.kind, version.manifest = "labelled", {"labels": ["ham", "spam"]}
    version.save()
    assert begin(space=unsaid, task="classification")


def test_no_trial_is_of_longer_examples_than_its_model_reads(begin: Begin, version: DatasetVersion) -> None:
    version.kind = "document"
    version.save()
    longer: dict[str, Any] = {"max_length": {"choices": [64, 1025]}}
    refused = code_of(lambda: begin(space=longer, task="documents"))
    assert (refused.code, "at most 1024" in refused.message) == ("bad_knobs", True)
    sizes = {"size": {"low": 4, "high": 8}}
    refused = code_of(lambda: begin(space=longer | sizes, task="scratch", base=None))
    assert (refused.code, "at most 1024" in refused.message) == ("bad_knobs", True)
    sizes = {"size": {"low": 5, "high": 8}}
    assert begin(space=longer | sizes, task="scratch", base=None)


_BOTH = {"choices": [True, False]}


def test_of_trials_that_learn_the_same_the_fastest_is_published(begin: Begin, published: list[Job]) -> None:
    space = {"optimizer": {"choices": ["adamw", "sgd"]}, "packing": _BOTH, "gradient_checkpointing": _BOTH}
    found = begin(space=space, trials=4)
    sgd = {"optimizer": "sgd"}
    lived(
        found,
        ({"optimizer": "adamw", "packing": True, "gradient_checkpointing": False}, 2.0, 1.0),
        (sgd | {"packing": True, "gradient_checkpointing": True}, 1.00001, 9.0),
        (sgd | {"packing": False, "gradient_checkpointing": True}, 1.0, 20.0),
        (sgd | {"packing": True, "gradient_checkpointing": False}, 1.00002, 5.0),
    )
    assert published == [trial(found, 4)]
    assert now(found).result["loss"] == 1.00002


def test_a_trial_whose_weights_are_gone_is_not_the_best_again(begin: Begin, published: list[Job]) -> None:
    found = begin(space={"optimizer": {"choices": ["adamw", "sgd"]}, "packing": _BOTH}, trials=3)
    lived(
        found,
        ({"optimizer": "sgd", "packing": True}, 1.00002, 5.0),
        ({"optimizer": "adamw", "packing": True}, 1.00001, 9.0),
        ({"optimizer": "sgd", "packing": False}, 1.0, 20.0),
    )
    assert published == [trial(found, 3)]


def test_a_search_of_nothing_but_how_steps_are_computed_is_by_the_time_they_take(
    begin: Begin, published: list[Job]
) -> None:
    found = begin(space={"packing": _BOTH, "gradient_checkpointing": _BOTH}, trials=9)
    fast = ({"packing": True, "gradient_checkpointing": False}, 1.00001, 30.0)
    lowest = ({"packing": False, "gradient_checkpointing": True}, 1.0, 60.0)
    usual = ({"packing": False, "gradient_checkpointing": False}, 1.00002, 60.0)
    lived(found, *[usual] * 6, fast, lowest)
    slow = job_life.claim_next()
    assert slow is not None
    job_life.begin(slow)
    for seconds, wish in ((3.0, Wish.NONE), (9.0, Wish.CANCEL)):
        Job.objects.filter(id=slow.id).update(step=1, seconds=seconds)
        advance(found.id)
        assert now(slow).wish == Wish.NONE  # before it has been evaluated
        measure(slow, 2.0)
        advance(found.id)
        assert now(slow).wish == wish
        Measurement.objects.filter(job=slow).delete()
    job_life.end(slow, State.CANCELLED)
    advance(found.id)
    assert published == [trial(found, 7)]
    importance = now(found).result["importance"]
    assert importance["packing"] > importance["gradient_checkpointing"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"trials": 1}, "bad_trials"),
        ({"trials": 101}, "bad_trials"),
        ({"name": " "}, "bad_name"),
        ({"task": "documents"}, "bad_task"),
        ({"base": None}, "base_missing"),
        ({"spec": {"epochs": 0}}, "bad_knobs"),
    ],
)
def test_what_no_job_could_be_is_no_search(changes: Any, code: str, begin: Begin) -> None:
    assert code_of(lambda: begin(**changes)).code == code


def test_a_search_needs_something_to_compare_by_and_is_not_begun_without_end(
    begin: Begin, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_services, "MAX_UNFINISHED", 1)
    begin()
    assert code_of(begin).code == "too_many"
    version.validation = 0
    assert code_of(lambda: begin(version=version)).code == "nothing_to_compare"
