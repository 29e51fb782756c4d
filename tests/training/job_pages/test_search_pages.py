"""Pages of searches: begun with the last form, one line of the list, trials as a table and a picture, and their end."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import ServedModel
from tests.training.data_pages.conftest import LogIn
from tests.training.job_pages.rows import classified, make_job, make_search, make_trials, make_version
from tests.training.job_pages.test_new_job import SETTINGS, choose, untouched
from training import knob_fields
from training.models import Dataset, DatasetVersion, Job, Search
from training.search import advance
from training.search_space import knob_values
from training.trainer.evaluation import summarise_folds
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db
RANGE = {"knob_1": "learning_rate", "low_1": "0.00001", "high_1": "0.001"}


@pytest.fixture
def client(alice: User, logged_in: LogIn) -> Client:
    return logged_in(alice)


@pytest.fixture
def found(workspace: Workspace, alice: User) -> Search:
    return make_search(workspace, alice)


@pytest.fixture
def trials(found: Search, base: ServedModel, version: DatasetVersion) -> list[Job]:
    return make_trials(found, base, version)


def shown(client: Client, found: Search) -> str:
    page = client.get(f"/fine-tunes/searches/{found.pk}/").content.decode()
    now = client.get(f"/fine-tunes/searches/{found.pk}/now").content.decode()
    assert now.strip() in page
    return page


def finish(found: Search, **result: Any) -> None:
    usual = {"best": None, "loss": None, "importance": {}, "error": ""}
    Search.objects.filter(pk=found.pk).update(finished_at=timezone.now(), result=usual | result)


def test_the_last_form_begins_a_search(client: Client, version: DatasetVersion, base: ServedModel) -> None:
    choose(client, version, base)
    sent = untouched(client.get(SETTINGS).content.decode()) | {"name": "In our tone", "epochs": "2"}
    more = {"knob_2": "lora.r", "low_2": "4", "high_2": "32", "knob_3": "lora.rslora", "trials": "5"}
    answer = client.post(SETTINGS, sent | RANGE | more)
    begun = Search.objects.get()
    assert answer.headers["Location"] == f"/fine-tunes/searches/{begun.pk}/"
    assert (begun.name, begun.kind, begun.parameters["trials"]) == ("In our tone", "search", 5)
    assert begun.parameters["spec"]["epochs"] == 2.0
    assert begun.parameters["space"] == {
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "lora.r": {"low": 4, "high": 32, "log": False},
        "lora.rslora": {"choices": [True, False]},
    }
    assert not Job.objects.exists()
    assert "The first one is about to begin." in shown(client, begun)


def test_as_many_settings_can_be_searched_for_as_a_search_may_have(
    client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    names = ("learning_rate", "weight_decay", "warmup", "l1", "label_smoothing", "max_grad_norm", "momentum")
    choose(client, version, base)
    page = client.get(SETTINGS).content.decode()
    assert 'id="more-searched">' in page
    rows = {"knob_1": "optimizer"}
    for number, name in enumerate(names, 2):
        rows |= {f"knob_{number}": name, f"low_{number}": "0.01", f"high_{number}": "0.02"}
    whole = untouched(page) | rows | {"trials": "5"}
    client.post(SETTINGS, whole | {"back": "1"})
    assert 'id="more-searched" open>' in client.get(SETTINGS).content.decode()
    client.post(SETTINGS, whole)
    assert {*Search.objects.get().parameters["space"]} == {"optimizer", *names}


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (RANGE | {"low_1": ""}, "low_1"),
        (RANGE | {"low_1": "0.1"}, "high_1"),
        (RANGE | {"high_1": "7"}, "high_1"),
        (RANGE | {"high_1": "nan"}, "high_1"),
        (RANGE | {"high_1": "1e999"}, "high_1"),
        (RANGE | {"knob_2": "learning_rate", "low_2": "0.1", "high_2": "0.2"}, "knob_2"),
        (RANGE | {"knob_1": "output"}, "knob_1"),
        (RANGE | {"knob_1": "batch_size", "low_1": "1.5", "high_1": "4"}, "low_1"),
        (RANGE | {"trials": "101"}, "trials"),
    ],
)
def test_what_cannot_be_searched_is_said_beside_its_field_which_is_seen(
    sent: dict[str, str], field: str, client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base)
    whole = untouched(client.get(SETTINGS).content.decode()) | sent
    answer = client.post(SETTINGS, whole)
    page = answer.content.decode()
    assert answer.status_code == 400
    assert re.findall(r'id="id_([^"]+)_error"', page) == [field]
    assert re.search(r'<details[^>]*id="search-settings" open>', page)
    assert not Search.objects.exists()
    # Nothing is lost on the way back.
    client.post(SETTINGS, whole | {"back": "1"})
    assert 'id="search-settings" open' in client.get(SETTINGS).content.decode()


def test_the_form_offers_sets_of_layers_and_says_of_each_other_setting_why_it_is_not_there(
    client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base)
    page = client.get(SETTINGS).content.decode()
    whole = untouched(page)
    assert "<dt>Checkpoints kept</dt>" in page.split('id="not-searched"')[1]
    assert "It changes what is kept of a job, and not what is learnt." in page
    answer = client.post(SETTINGS, whole | {"knob_1": "keep_checkpoints", "trials": "3"})
    said = "Checkpoints kept cannot be searched for: it changes what is kept of a job"
    assert said in answer.content.decode()
    assert client.post(SETTINGS, whole | {"knob_1": "lora.targets", "trials": "3"}).status_code == 302
    begun = Search.objects.get()
    names = ["all", "attention", "queries_values", "feed_forward"]
    assert begun.parameters["space"] == {"lora.targets": {"choices": names}}
    assert "all layers, attention, queries and values, feed-forward" in shown(client, begun)


@pytest.mark.parametrize(
    "asked",
    [
        {
            "packing": None, "gradient_checkpointing": None, "precision": None, "lora.initialisation": None,
            "checkpoint_every": (1, 9), "patience": (0, 3), "seed": (0, 99), "epochs": (0.5, 3),
        },
        {
            "max_steps": (10, 200), "accumulation": (1, 8), "microbatch_tokens": (64, 4096), "max_length": (32, 2048),
            "lora.dropout": (0, 0.5), "schedule": None, "batch_size": (1, 64), "warmup": (0, 0.5),
        },
    ],
)  # fmt: skip
def test_whatever_changes_what_is_learnt_or_what_it_takes_is_searched_for(
    asked: dict[str, tuple[float, float] | None], client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base)
    rows: dict[str, str] = {}
    for number, (name, limits) in enumerate(asked.items(), 1):
        rows |= {f"knob_{number}": name}
        if limits:
            rows |= {f"low_{number}": str(limits[0]), f"high_{number}": str(limits[1])}
    client.post(SETTINGS, untouched(client.get(SETTINGS).content.decode()) | rows | {"trials": "3"})
    begun = Search.objects.get()
    advance(begun.id)
    job = begun.jobs.get()
    assert job.state == Job.State.QUEUED
    assert {*knob_fields.values_of(job.spec)} >= {*asked} - {"precision"}
    for name, limits in asked.items():
        value = knob_values(job.spec, begun.parameters["space"])[name]
        assert limits[0] <= value <= limits[1] if limits else value is not None, name
    page = shown(client, begun)
    assert ("up to 2,048 tokens at a time" in page) == ("max_length" in asked)
    assert "Of trials that learn the same, the fastest is the best" in page
    assert "Memory</th>" in page


def test_where_trials_differ_only_in_how_steps_are_computed_their_time_is_shown_and_drawn(
    client: Client, found: Search, trials: list[Job]
) -> None:
    assert "Time spent" not in shown(client, found)
    found.parameters["space"] = {"packing": {"choices": [True, False]}}
    found.save()
    for number, (job, seconds) in enumerate(zip(trials, (4.814, 740.0, 9.0, 9.0, 3.2, 0.0), strict=True)):
        job.spec, job.seconds, job.memory = {"packing": number % 2 == 0}, seconds, 2_340_000_000
        job.save()
    page = shown(client, found)
    assert "the fastest trial is the best" in page
    rows = re.findall(r'data-label="Time spent">([^<]*)</td>.*?data-label="Memory">([^<]*)<', page, re.S)
    assert rows[:3] == [("4.81 s", "2.3 GB"), ("0:12:20", "2.3 GB"), ("9.00 s", "2.3 GB")]
    assert rows[5][0] == "—"
    assert re.search(r'id="trial-5".*?the best', page)
    assert '<h2 id="losses">Time spent, in seconds</h2>' in page
    drawn = page[page.index('class="chart trials') :].split("</svg>")[0]
    assert drawn.count("<circle") == 3  # how long one took that was stopped early says nothing


def test_what_the_search_itself_refuses_is_said_on_the_page(
    client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    DatasetVersion.objects.filter(pk=version.pk).update(validation=0)
    choose(client, version, base)
    answer = client.post(SETTINGS, untouched(client.get(SETTINGS).content.decode()) | RANGE)
    assert answer.status_code == 400
    assert "this version has none" in answer.content.decode()


def test_the_last_form_begins_a_cross_validation_of_a_classifier(
    client: Client, dataset: Dataset, base: ServedModel
) -> None:
    choose(client, make_version(dataset, "labelled"), base, "classification")
    sent = untouched(client.get(SETTINGS).content.decode()) | {"folds": "3"}
    assert client.post(SETTINGS, sent | RANGE).status_code == 400
    answer = client.post(SETTINGS, sent)
    begun = Search.objects.get()
    assert answer.headers["Location"] == f"/fine-tunes/searches/{begun.pk}/"
    assert [job.spec for job in begun.jobs.order_by("number")] == [{"folds": 3, "fold": n} for n in (1, 2, 3)]
    # Who presses twice has begun it once.
    assert client.post(SETTINGS, sent).headers["Location"] == answer.headers["Location"]
    assert (Search.objects.count(), Job.objects.count()) == (1, 3)


def test_the_list_has_one_line_for_a_search_and_none_for_its_trials(
    client: Client, found: Search, trials: list[Job], job: Job
) -> None:
    page = client.get("/fine-tunes/").content.decode()
    assert re.findall(r'id="((?:job|search)-[^"]+)"', page) == [f"job-{job.pk}", f"search-{found.pk}"]
    assert "search 5 / 8" in page
    assert "1.487" in page
    assert "data-busy" in client.get("/fine-tunes/list").content.decode()


def test_the_page_shows_each_trial_with_its_knobs_loss_and_state_and_goes_on(
    client: Client, found: Search, trials: list[Job]
) -> None:
    page = shown(client, found)
    assert re.findall(r'id="trial-(\d)" href="/fine-tunes/([^/]+)/"', page) == [
        (str(job.number), str(job.pk)) for job in trials
    ]
    for said in (
        "Learning rate: 0.00001 to 0.01",
        "Rank",
        "0.000617",
        "AdamW",
        "stopped early",
        "training 30 %",
    ):
        assert said in page, said
    assert "data-busy" in page
    assert 'form="search-cancel"' in page
    assert "Best so far" in page
    assert "Try it" not in page
    assert page.count("the best</span>") == 1
    drawn = page[page.index('class="chart trials') :].split("</svg>")[0]
    assert drawn.count("<circle") == 4  # those that have ended with a loss
    # A trial's page leads back, and is not deleted alone.
    of_one = client.get(f"/fine-tunes/{trials[2].pk}/").content.decode()
    assert f"/fine-tunes/searches/{found.pk}/" in of_one
    assert "It was stopped early: others were better by then." in of_one
    assert 'id="job-end"' not in of_one


def test_when_it_has_ended_the_best_can_be_tried_and_the_search_be_deleted(
    client: Client, found: Search, trials: list[Job], base: ServedModel, workspace: Workspace
) -> None:
    model = ServedModel.objects.create(
        name="ft:tone", path="y", digest="1" * 64, architecture="llama", context_length=64, parameters=1, size_bytes=1,
        base=base, workspace=workspace,
    )  # fmt: skip
    Job.objects.filter(pk=trials[4].pk).update(model=model)
    Job.objects.filter(pk=trials[5].pk).update(state="failed", best_validation_loss=None)
    finish(found, importance={"lora.r": 0.7, "learning_rate": 0.3})
    page = shown(client, found)
    assert f'href="/?model={model.pk}"' in page
    assert f'href="/fine-tunes/new/?job={trials[4].pk}"' in page
    assert "70 %" in page
    assert "data-busy" not in page
    # A failed trial of an ended search is begun anew and not resumed.
    assert 'id="job-resume"' not in client.get(f"/fine-tunes/{trials[3].pk}/").content.decode()
    answer = client.post(f"/fine-tunes/searches/{found.pk}/delete/", follow=True)
    assert "tone is deleted." in answer.content.decode()
    assert not Search.objects.exists()


def test_cancelling_is_said_and_said_once_more_is_an_error(
    client: Client, found: Search, trials: list[Job]
) -> None:
    path = f"/fine-tunes/searches/{found.pk}/cancel/"
    page = client.post(path, follow=True).content.decode()
    assert "cancelling 5 / 8" in page
    assert 'form="search-cancel"' not in page
    trials[5].refresh_from_db()
    assert trials[5].wish == "cancel"
    finish(found, error="Its data or its base model was deleted.")
    page = client.post(path, follow=True).content.decode()
    assert "This search has ended already." in page
    assert "Its data or its base model was deleted." in page


def test_folds_show_their_scores_and_the_mean_of_them(
    client: Client, workspace: Workspace, alice: User, base: ServedModel, version: DatasetVersion
) -> None:
    found = make_search(workspace, alice, kind="folds")
    found.parameters |= {"folds": 3, "task": "classification"}
    found.save()
    judged = [classified("binary") | {"accuracy": accuracy} for accuracy in (0.8, 0.9)]
    for number, evaluation in enumerate([*judged, None], 1):
        make_job(
            workspace, alice, base, version, name=f"tone {number}", search=found, number=number, task="classification",
            state="succeeded" if evaluation else "failed", evaluation=evaluation,
        )  # fmt: skip
    finish(found, **summarise_folds(judged) | {"failed": [3]})
    page = shown(client, found)
    assert re.search(r"<dt>Accuracy</dt><dd>0\.850 <span class=\"muted\">± 0\.071", page)
    assert "Part 3 has no score, and is not counted." in page
    assert "0.900" in page
    assert "Try it" not in page
