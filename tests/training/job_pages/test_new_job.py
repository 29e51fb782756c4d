"""Beginning a fine-tune in three steps: what is offered, what is kept, what is refused and what is started."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.utils import timezone

from inference.models import ServedModel
from tests.training.data_pages.conftest import LogIn
from tests.training.job_pages.rows import make_job, make_version
from training import knob_fields
from training.models import Dataset, DatasetVersion, DataWork, Job
from training.trainer.spec import RANGES, Spec
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db
DATA, METHOD, SETTINGS = "/fine-tunes/new/", "/fine-tunes/new/method/", "/fine-tunes/new/settings/"


@pytest.fixture
def client(alice: User, logged_in: LogIn) -> Client:
    return logged_in(alice)


def choose(
    client: Client, version: DatasetVersion, base: ServedModel, task: str = "chat", method: str = "lora"
) -> None:
    """The first two steps."""
    answer = client.post(DATA, {"source": f"{version.pk}:{task}"})
    assert answer.headers["Location"] == METHOD
    answer = client.post(METHOD, {"base": str(base.pk), "method": method})
    assert answer.headers["Location"] == SETTINGS


def untouched(page: str) -> dict[str, Any]:
    """What a browser sends of the settings' form as it stands."""
    form = page[page.index('aria-labelledby="settings"') :]
    sent: dict[str, Any] = {}
    for tag in re.findall(r"<input [^>]*>", form):
        found = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if found.get("type") == "checkbox":
            if " checked" in tag:
                sent.setdefault(found["name"], []).append(found.get("value", "on"))
        elif "name" in found:
            sent[found["name"]] = found.get("value", "")
    for name, options in re.findall(r'<select name="([^"]+)".*?>(.*?)</select>', form, re.S):
        chosen = re.search(r'value="([^"]*)" selected', options)
        assert chosen, name
        sent[name] = chosen[1]
    for name, text in re.findall(r'<textarea name="([^"]+)"[^>]*>\s*(.*?)</textarea>', form, re.S):
        sent[name] = text
    return sent


def value(page: str, name: str) -> str:
    return str(untouched(page)[name])


def test_three_pages_start_a_job_with_only_what_is_not_the_default(
    client: Client, alice: User, version: DatasetVersion, base: ServedModel
) -> None:
    assert re.search(f'value="{version.pk}:chat"[^>]*checked', client.get(DATA).content.decode())
    choose(client, version, base)
    page = client.get(SETTINGS).content.decode()
    sent = untouched(page) | {
        "name": " In our tone ",
        "epochs": "2.5",
        "lora.r": "8",
        "prompts": "Who are you?\n\n Why? ",
    }
    answer = client.post(SETTINGS, sent)
    job = Job.objects.get()
    assert answer.headers["Location"] == f"/fine-tunes/{job.pk}/"
    assert (job.name, job.task, job.version, job.base, job.created_by) == (
        "In our tone",
        "chat",
        version,
        base,
        alice,
    )
    assert job.spec == {"epochs": 2.5, "lora": {"r": 8}, "prompts": ["Who are you?", "Why?"]}
    # What was entered is not there any more for the next one.
    assert client.get(SETTINGS).headers["Location"] == DATA


@pytest.mark.parametrize("method", ["lora", "full"])
def test_settings_left_alone_are_no_settings(
    method: str, client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base, method=method)
    client.post(SETTINGS, untouched(client.get(SETTINGS).content.decode()) | {"prompts": ""})
    assert Job.objects.get().spec == ({} if method == "lora" else {"method": "full"})


def test_every_knob_of_the_trainer_is_offered_with_words_of_its_own_or_asked_for_elsewhere() -> None:
    of_spec = {field.name for field in msgspec.structs.fields(Spec)}
    assert of_spec == {name for name in knob_fields.KNOBS if "." not in name} | (
        knob_fields.ELSEWHERE & of_spec
    )
    assert set(knob_fields.KNOBS) <= set(knob_fields.WORDS)
    grouped = [name for _label, names in knob_fields.groups(set(knob_fields.KNOBS)) for name in names]
    assert sorted([*grouped, *knob_fields.FRONT]) == sorted(knob_fields.KNOBS)


def test_knobs_out_of_their_ranges_are_refused_beside_their_fields(
    client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base)
    sent = untouched(client.get(SETTINGS).content.decode())
    asked = [name for name in RANGES if name in sent]
    assert len(asked) > 15
    answer = client.post(SETTINGS, sent | {name: str(RANGES[name][1] * 2 + 1) for name in asked})
    page = answer.content.decode()
    assert answer.status_code == 400
    assert set(re.findall(r'id="id_([^"]+)_error"', page)) == set(asked)
    # They are seen, though they are knobs of the disclosure.
    assert 'id="all-settings" open' in page
    answer = client.post(SETTINGS, sent | {"epochs": "0"})
    assert 'id="all-settings" open' not in answer.content.decode()
    assert not Job.objects.exists()


def test_what_was_entered_survives_going_back_right_or_wrong(
    client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base, method="full")
    sent = untouched(client.get(SETTINGS).content.decode())
    del sent["packing"]
    sent |= {
        "name": "half",
        "epochs": "a few",
        "optimizer": "sgd",
        "gradient_checkpointing": "on",
        "back": "1",
    }
    assert client.post(SETTINGS, sent).headers["Location"] == METHOD
    page = client.get(METHOD).content.decode()
    assert re.search(r'value="full"[^>]*checked', page)
    assert re.search(f'value="{version.pk}:chat"[^>]*checked', client.get(DATA).content.decode())
    choose(client, version, base, method="full")
    page = client.get(SETTINGS).content.decode()
    again = untouched(page)
    assert (again["name"], again["epochs"], again["optimizer"]) == ("half", "a few", "sgd")
    assert "gradient_checkpointing" in again
    assert "packing" not in again
    assert not Job.objects.exists()


def test_who_presses_twice_begins_one_fine_tune_and_is_led_to_it(
    client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base)
    sent = untouched(client.get(SETTINGS).content.decode())
    assert (
        client.post(SETTINGS, sent | {"epochs": "0"}).status_code == 400
    )  # the page that says so is the same one
    first = client.post(SETTINGS, sent)
    second = client.post(SETTINGS, sent, follow=True)
    job = Job.objects.get()
    assert first.headers["Location"] == second.redirect_chain[0][0] == f"/fine-tunes/{job.pk}/"
    assert "This was begun already" in second.content.decode()
    # Another page begins another.
    choose(client, version, base)
    client.post(SETTINGS, untouched(client.get(SETTINGS).content.decode()))
    assert Job.objects.count() == 2


def test_of_two_tabs_each_starts_what_it_showed(
    client: Client, dataset: Dataset, version: DatasetVersion, base: ServedModel
) -> None:
    other = make_version(dataset, "document")
    choose(client, version, base)
    first = untouched(client.get(SETTINGS).content.decode())
    choose(client, other, base, "documents", "full")
    client.post(SETTINGS, first)
    job = Job.objects.get()
    assert (job.version, job.task, "method" in job.spec) == (version, "chat", False)


def test_questions_are_taken_from_the_data_and_otherwise_two_of_anybody(
    client: Client, dataset: Dataset, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base)
    assert value(client.get(SETTINGS).content.decode(), "prompts") == "Where is my order?"
    choose(client, make_version(dataset, "document"), base, "documents")
    assert len(value(client.get(SETTINGS).content.decode(), "prompts").splitlines()) == 2


@pytest.mark.parametrize("prompts", ["\n".join("abcdefghi"), "x" * 2001])
def test_too_many_or_too_long_questions_are_refused(
    prompts: str, client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base)
    sent = untouched(client.get(SETTINGS).content.decode()) | {"prompts": prompts}
    answer = client.post(SETTINGS, sent)
    assert answer.status_code == 400
    assert 'id="id_prompts_error"' in answer.content.decode()


def test_what_only_the_service_can_refuse_is_said_on_the_page_and_nothing_is_lost(
    client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base)
    sent = untouched(client.get(SETTINGS).content.decode()) | {"name": "long", "max_length": "4096"}
    answer = client.post(SETTINGS, sent)
    page = answer.content.decode()
    assert answer.status_code == 400
    assert "“Longest example” may be at most 2048" in page
    assert value(page, "name") == "long"
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("kind", "task", "has", "lacks"),
    [
        ("labelled", "classification", ["class_weights", "folds"], ["prompts", "sample_tokens"]),
        ("translation", "translation", ["prompts", "sample_tokens"], ["class_weights", "folds"]),
    ],
)
def test_only_what_means_something_for_the_task_is_asked(
    kind: str,
    task: str,
    has: list[str],
    lacks: list[str],
    client: Client,
    dataset: Dataset,
    base: ServedModel,
) -> None:
    choose(client, make_version(dataset, kind), base, task)
    sent = untouched(client.get(SETTINGS).content.decode())
    assert {*has} <= {*sent}
    assert not {*lacks} & {*sent}
    assert client.post(SETTINGS, sent).headers["Location"].startswith("/fine-tunes/")
    assert Job.objects.get().task == task


def test_a_model_from_scratch_has_a_size_instead_of_a_base(
    client: Client, dataset: Dataset, base: ServedModel
) -> None:
    version = make_version(dataset, "document")
    assert client.post(DATA, {"source": f"{version.pk}:scratch"}).headers["Location"] == METHOD
    page = client.get(METHOD).content.decode()
    assert re.search(r'type="range" name="size" value="4" min="1" max="32"', page)
    assert "tiny-instruct" not in page
    assert client.post(METHOD, {"size": "99"}).status_code == 400
    assert client.post(METHOD, {"size": "6", "vocabulary": "2000"}).headers["Location"] == SETTINGS
    page = client.get(SETTINGS).content.decode()
    assert "6 layers" in page
    sent = untouched(page)
    assert "dropout" in sent
    assert not [name for name in sent if name.startswith("lora.")]
    client.post(SETTINGS, sent | {"back": "1"})
    assert 'name="size" value="6"' in client.get(METHOD).content.decode()
    client.post(SETTINGS, sent | {"prompts": ""})
    job = Job.objects.get()
    assert (job.task, job.base, job.spec) == ("scratch", None, {"size": 6, "vocabulary": 2000})
    # Another like it is asked the same.
    client.get(f"{DATA}?job={job.pk}")
    assert "6 layers" in client.get(SETTINGS).content.decode()


def test_what_jobs_like_it_took_is_said_before_it_starts(
    client: Client, alice: User, workspace: Workspace, base: ServedModel, report: DataWork
) -> None:
    version = make_version(report.dataset)
    choose(client, version, base)
    assert "with the usual settings" not in client.get(SETTINGS).content.decode()
    # Ten tokens a second; the report counts eleven in each example, and three epochs are usual.
    now = timezone.now()
    make_job(
        workspace, alice, base, version, state="succeeded", attempt=1, started_at=now - timedelta(seconds=1000),
        finished_at=now, step=10, epoch=1.0, data={"tokens": 10_000}, memory=3_000_000_000,
    )  # fmt: skip
    said = "About 1 hour 6 minutes and 3 GB of memory with the usual settings, as 1 job like it took here."
    assert said in client.get(SETTINGS).content.decode()


def test_an_adapters_knobs_are_asked_only_where_there_is_an_adapter(
    client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    choose(client, version, base, method="full")
    assert "lora." not in client.get(SETTINGS).content.decode()


def test_a_version_leads_to_its_fine_tune(client: Client, dataset: Dataset, version: DatasetVersion) -> None:
    newer = make_version(dataset)
    page = client.get(f"/data/{dataset.pk}/versions/").content.decode()
    assert f'href="{DATA}?version={version.pk}"' in page
    page = client.get(f"{DATA}?version={version.pk}").content.decode()
    assert re.search(f'value="{version.pk}:chat"[^>]*checked', page)
    assert not re.search(f'value="{newer.pk}:chat"[^>]*checked', page)


def test_what_nothing_can_be_learnt_from_is_not_offered(
    client: Client, dataset: Dataset, version: DatasetVersion
) -> None:
    DatasetVersion.objects.filter(pk=version.pk).update(state="building")
    assert "None of the frozen versions" not in client.get(DATA).content.decode()
    preference, empty = make_version(dataset, "preference"), make_version(dataset, train=0)
    page = client.get(DATA).content.decode()
    assert "There is nothing to learn from yet" in page
    assert "None of the frozen versions can be learnt from" in page
    # Nor where they were frozen: no button leads there.
    page = client.get(f"/data/{dataset.pk}/versions/").content.decode()
    for unfit, why in (
        (preference, "There is no training yet for data of this kind."),
        (empty, "no example is in"),
    ):
        assert f"?version={unfit.pk}" not in page
        assert why in page
    assert client.post(DATA, {"source": f"{version.pk}:chat"}).status_code == 400


def test_another_like_a_job_begins_with_what_that_one_was_given(
    client: Client, workspace: Workspace, alice: User, base: ServedModel, version: DatasetVersion
) -> None:
    spec = {"epochs": 7.0, "method": "full", "learning_rate": 0.001, "prompts": ["Why?", "Who?"]}
    job = make_job(workspace, alice, base, version, spec=spec, state="failed", error_code="nan")
    assert f"{DATA}?job={job.pk}" in client.get(f"/fine-tunes/{job.pk}/").content.decode()
    assert client.get(f"{DATA}?job={job.pk}").headers["Location"] == SETTINGS
    sent = untouched(client.get(SETTINGS).content.decode())
    assert (sent["name"], sent["prompts"]) == ("support", "Why?\nWho?")
    client.post(SETTINGS, sent)
    assert Job.objects.exclude(pk=job.pk).get().spec == spec


def test_what_was_entered_for_other_data_is_not_there_for_this(
    client: Client, version: DatasetVersion, base: ServedModel, workspace: Workspace, alice: User
) -> None:
    other = make_version(Dataset.objects.create(workspace=workspace, name="Recipes", created_by=alice))
    choose(client, other, base)
    sent = untouched(client.get(SETTINGS).content.decode())
    client.post(SETTINGS, sent | {"epochs": "9", "prompts": "How long?", "knob_1": "dropout", "back": "1"})
    choose(client, version, base)
    page = client.get(SETTINGS).content.decode()
    again = untouched(page)
    assert (again["name"], again["epochs"], again["prompts"]) == ("Support", "3", "Where is my order?")
    assert again["knob_1"] == ""


def test_another_like_a_job_is_no_search_though_one_was_being_entered(
    client: Client, workspace: Workspace, alice: User, base: ServedModel, version: DatasetVersion
) -> None:
    job = make_job(workspace, alice, base, version, state="succeeded")
    choose(client, version, base)
    sent = untouched(client.get(SETTINGS).content.decode())
    rows = {"knob_1": "learning_rate", "low_1": "0.0001", "high_1": "0.001"}
    client.post(SETTINGS, sent | rows | {"back": "1"})
    client.get(f"{DATA}?job={job.pk}")
    answer = client.post(SETTINGS, untouched(client.get(SETTINGS).content.decode()))
    assert answer.headers["Location"] == f"/fine-tunes/{Job.objects.exclude(pk=job.pk).get().pk}/"


def test_where_no_model_is_installed_the_second_step_says_so(client: Client, version: DatasetVersion) -> None:
    client.post(DATA, {"source": f"{version.pk}:chat"})
    assert "There is no model to begin with yet" in client.get(METHOD).content.decode()


def test_only_installed_models_are_offered(
    client: Client, workspace: Workspace, version: DatasetVersion, base: ServedModel
) -> None:
    for name, owner in (("ft:ours", workspace), ("ft:adapter", None)):
        ServedModel.objects.create(
            name=name, path=name, digest=name, architecture="llama", context_length=1, parameters=1, size_bytes=1,
            workspace=owner, base=None if owner else base,
        )  # fmt: skip
    client.post(DATA, {"source": f"{version.pk}:chat"})
    page = client.get(METHOD).content.decode()
    assert "tiny-instruct" in page
    assert "ft:" not in page


NASTY = ["a\x00b", "9" * 5000, "nan", "\u202e" * 300]


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_that_is_sent_breaks_a_page(
    nasty: str, client: Client, version: DatasetVersion, base: ServedModel
) -> None:
    client.raise_request_exception = False
    for path in (DATA, METHOD, SETTINGS):
        choose(client, version, base)
        assert client.post(path, {"source": nasty, "base": nasty, "method": nasty}).status_code < 500
        assert client.get(path, {"version": nasty, "job": nasty}).status_code < 500
    choose(client, version, base)
    kept = untouched(client.get(SETTINGS).content.decode())
    sent = dict.fromkeys(kept, nasty) | {name: kept[name] for name in ("source", "base", "method")}
    for more in ({}, {"back": "1"}):
        assert client.post(SETTINGS, sent | more).status_code < 500
        assert client.get(SETTINGS).status_code < 500
    assert not Job.objects.exists()


def test_a_draft_of_another_workspace_is_not_gone_on_with(
    client: Client, alice: User, version: DatasetVersion, base: ServedModel, elsewhere: Workspace
) -> None:
    choose(client, version, base)
    session = client.session
    session["fine_tune"] = session["fine_tune"] | {"workspace": str(elsewhere.pk)}
    session.save()
    assert client.get(SETTINGS).headers["Location"] == DATA
