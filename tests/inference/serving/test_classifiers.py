"""Classifiers and regressors judge texts on workers that run, and say what the trainer says when it evaluates them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from inference import model_services, services, worker_services
from inference.access import classifiers_for, get_model, models_for
from inference.engine.engine import TorchEngine
from inference.engine.loader import load_engine
from inference.formats.classifier_card import CARD_FILE, Kind
from inference.formats.digest import adapted_digest
from inference.model_finder import NOT_THERE
from inference.models import Generation, ServedModel
from inference.stream import Event
from inference.tasks import sweep
from inference.worker import WorkerHost
from tests.inference.classifiers import LABELS, save_classifier
from tests.inference.serving import conftest
from tests.inference.serving.conftest import ENGINES, MESSAGES, ended
from tests.services import wait_until
from training.trainer import classifier as trainers
from webapp.accounts.models import Workspace
from webapp.core.errors import NotFound, UserError

pytestmark = pytest.mark.django_db(transaction=True)
TEXTS = ["The quick brown fox", "naïve 日本語 🙂?", "jumps over the lazy dog, and then it sleeps. " * 9, "x"]
Add = Callable[..., ServedModel]


@pytest.fixture
def add(base: ServedModel, workspace: Workspace, tmp_path: Path) -> Add:
    """Adds one as a job that has succeeded would."""

    def adding(kind: Kind = "binary", *, method: Any = "lora", owner: Workspace = workspace) -> ServedModel:
        name = f"ft:tiny:acme:{kind}-{method}:01234567"
        source = save_classifier(tmp_path / "jobs" / name, base.location, kind, method=method)
        if method == "lora":
            return model_services.add_adapter(workspace=owner, base=base, name=name, source=source)
        return model_services.add_workspace_model(workspace=owner, name=name, source=source)

    return adding


def judged(host: WorkerHost, workspace: Workspace, model: ServedModel, text: str) -> Generation:
    generation = services.start_classification(workspace=workspace, model=model, text=text)
    host.run(str(generation.id))
    return ended(generation)


@pytest.mark.parametrize(
    ("kind", "method"), [(kind, "lora") for kind in LABELS] + [("multiclass", "full"), ("regression", "full")]
)
def test_what_is_served_says_what_the_trainer_says_of_the_same_texts(
    kind: Kind, method: str, base: ServedModel, add: Add, start: Callable[[], WorkerHost], workspace: Workspace
) -> None:  # fmt: skip
    model, host = add(kind, method=method), start()
    trained = trainers.load(model.location, None if method == "full" else base.location, dtype="fp32")
    names = LABELS[kind] or ["value"]
    for text, wanted in zip(TEXTS, trained.predict(TEXTS), strict=True):
        generation = judged(host, workspace, model, text)
        assert (generation.state, generation.text) == ("complete", "")
        expected = dict(zip(names, wanted, strict=True))
        assert generation.extras["scores"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    whole = method == "full"
    assert generation.model_digest == (model.digest if whole else adapted_digest(base.digest, model.digest))
    assert len({str(row) for row in trained.predict(TEXTS)}) == len(TEXTS)


def test_in_bf16_it_says_the_same_but_for_rounding(
    base: ServedModel, add: Add, start: Callable[[], WorkerHost], workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def load(model: ServedModel, *, beside: object = None) -> TorchEngine:
        ENGINES.append(load_engine(model.location, dtype="bf16", max_running=8))
        return ENGINES[-1]

    monkeypatch.setattr(conftest, "load", load)
    model, host = add("multiclass"), start()
    trained = trainers.load(model.location, base.location, dtype="bf16")
    for text, wanted in zip(TEXTS, trained.predict(TEXTS), strict=True):
        expected = dict(zip(LABELS["multiclass"], wanted, strict=True))
        assert judged(host, workspace, model, text).extras["scores"] == pytest.approx(expected, abs=0.03)


def test_readers_hear_the_scores_before_the_end(
    add: Add, start: Callable[[], WorkerHost], workspace: Workspace
) -> None:
    generation = judged(start(), workspace, add(), TEXTS[0])

    def whole_log() -> list[Event]:
        log = services.token_log().read(generation.id)
        return log if log[-1].type == "done" else []

    log = wait_until(whole_log, "the log to end")
    assert [event.type for event in log] == ["admitted", "result", "done"]
    assert log[1].data == generation.extras == {"scores": generation.extras["scores"]}
    assert sum(generation.extras["scores"].values()) == pytest.approx(1)
    assert (generation.prompt_tokens > 0, generation.completion_tokens) == (True, 0)


def test_what_was_judged_for_a_page_that_died_is_forgotten(add: Add, workspace: Workspace) -> None:
    model = add()
    started = [
        services.start_classification(workspace=workspace, model=model, text="Hello") for _ in range(4)
    ]
    old, new, _waiting, of_a_call = started
    ended = timezone.now() - timedelta(minutes=16)
    Generation.objects.filter(pk__in=[old.pk, of_a_call.pk]).update(state="complete", finished_at=ended)
    Generation.objects.filter(pk=of_a_call.pk).update(call_id=of_a_call.pk)
    Generation.objects.filter(pk=new.pk).update(state="complete", finished_at=timezone.now())
    sweep()
    assert set(Generation.objects.all()) == set(started) - {old}


def test_all_that_was_judged_for_pages_that_died_is_forgotten_however_much_it_is(
    add: Add, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_services, "_FORGET_AT_ONCE", 2)
    model = add()
    for _ in range(5):
        services.start_classification(workspace=workspace, model=model, text="Hello")
    Generation.objects.update(state="complete", finished_at=timezone.now() - timedelta(minutes=16))
    sweep()
    assert not Generation.objects.exists()


def test_who_judges_is_not_talked_to_and_who_talks_does_not_judge(
    base: ServedModel, add: Add, start: Callable[[], WorkerHost], workspace: Workspace
) -> None:
    model = add()
    assert (list(models_for(workspace)), list(classifiers_for(workspace))) == ([base], [model])
    with pytest.raises(NotFound):
        get_model(workspace, str(model.pk))
    with pytest.raises(UserError, match="is no classifier"):
        services.start_classification(workspace=workspace, model=base, text="Hello")
    host = start()
    asked = [
        services.start_generation(workspace=workspace, model=model, messages=MESSAGES),
        services.start_generation(
            workspace=workspace, model=base, prompt="Hello", purpose="classification"
        ),
    ]  # fmt: skip
    for generation, said in zip(asked, ("judges texts and writes none", "is no classifier"), strict=True):
        host.run(str(generation.id))
        assert ended(generation).error_code == "model_unavailable"
        assert said in generation.error_message


def test_another_workspaces_classifier_judges_for_nobody(
    add: Add, start: Callable[[], WorkerHost], workspace: Workspace, elsewhere: Workspace
) -> None:
    model = add(owner=elsewhere)
    assert list(classifiers_for(workspace)) == []
    generation = judged(start(), workspace, model, "Hello")
    assert (generation.state, generation.error_message, generation.extras) == ("failed", NOT_THERE, {})


@pytest.mark.parametrize("method", ["lora", "full"])
def test_labels_that_were_changed_since_are_not_what_was_registered(
    method: str, add: Add, start: Callable[[], WorkerHost], workspace: Workspace
) -> None:
    model = add("binary", method=method)
    card = model.location / CARD_FILE
    card.write_text(json.dumps(json.loads(card.read_text()) | {"labels": ["yes", "no"]}))
    generation = judged(start(), workspace, model, "Hello")
    assert generation.error_code == "model_unavailable"
    assert generation.error_message.endswith("Its files are not the ones that were registered.")


def test_a_head_for_another_model_or_for_other_labels_is_refused(
    base: ServedModel, workspace: Workspace, tmp_path: Path
) -> None:
    source = save_classifier(tmp_path / "job", base.location, "multiclass")
    card = json.loads((source / CARD_FILE).read_text())
    for labels in (["one", "two"], [*card["labels"], "more"]):
        (source / CARD_FILE).write_text(json.dumps(card | {"labels": labels}))
        with pytest.raises(UserError, match="but the model and its labels ask for F32"):
            model_services.add_adapter(workspace=workspace, base=base, name="ft:x", source=source)
    (source / CARD_FILE).write_text("{}")
    with pytest.raises(UserError, match="does not describe a classifier"):
        model_services.add_adapter(workspace=workspace, base=base, name="ft:x", source=source)
    (source / CARD_FILE).unlink()
    with pytest.raises(UserError, match="whole modules beside its factors"):
        model_services.add_adapter(workspace=workspace, base=base, name="ft:x", source=source)
    assert not ServedModel.objects.filter(name="ft:x").exists()


def test_nothing_is_made_for_a_classifier_and_it_becomes_nobodys_default(
    base: ServedModel, add: Add, workspace: Workspace, tmp_path: Path
) -> None:
    whole = add("binary", method="full")
    source = save_classifier(tmp_path / "job", base.location, "binary")
    with pytest.raises(UserError, match="no model that an adapter could be for"):
        model_services.add_adapter(workspace=workspace, base=whole, name="ft:x", source=source)
    everybodys = model_services.register_model(name="moderation", path=whole.location)
    assert everybodys.kind == ServedModel.Kind.CLASSIFIER
    assert everybodys in classifiers_for(workspace)
    with pytest.raises(UserError, match="judges texts and writes none"):
        model_services.set_default_model(name="moderation")
