"""The list of fine-tunes and the page of one: everything is made from rows, in words, numbers and pictures."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django.fixtures import Settings

from inference.models import ServedModel
from tests.services import Valkey
from tests.training.data_pages.conftest import LogIn
from tests.training.data_pages.test_data_pages import EVIL, INLINE
from tests.training.job_pages.rows import REGRESSED, RUNNING, classified, learn, make_job, make_search
from training import job_charts, job_page, job_services, job_views, job_words
from training.models import Dataset, Job, JobEvent, Measurement, Sample
from training.trainer.confusion import most_confused
from webapp.accounts.models import User, Workspace
from webapp.core import snapshots

pytestmark = pytest.mark.django_db
# As training.trainer.classified says it.
NO_MEMORY = (
    "There is not enough memory; lower microbatch_tokens or max_length, or turn gradient_checkpointing on."
)


@pytest.fixture
def client(alice: User, logged_in: LogIn) -> Client:
    return logged_in(alice)


@pytest.fixture
def running(job: Job) -> Job:
    return changed(job, **RUNNING)


def changed(job: Job, **fields: Any) -> Job:
    Job.objects.filter(pk=job.pk).update(**fields)
    job.refresh_from_db()
    return job


def shown(client: Client, job: Job) -> str:
    answer = client.get(f"/fine-tunes/{job.pk}/")
    assert answer.status_code == 200
    return answer.content.decode()


TAKE = "Download the adapter (1 bytes)"


def served(job: Job) -> ServedModel:
    return ServedModel.objects.create(
        name="ft:tiny:acme:support:1", path="x", digest="1", architecture="llama", context_length=1, parameters=1,
        size_bytes=1, base=job.base, workspace=job.workspace,
    )  # fmt: skip


def whole(job: Job) -> ServedModel:
    model = served(job)
    model.base = None
    model.save()
    return model


def words(page: str) -> list[str]:
    return re.findall(r'<span class="status-word"><span class="dot[^"]*"></span> ([^<]+)<', page)


def test_an_empty_page_says_what_it_is_for_and_leads_to_the_first_step(
    client: Client, workspace: Workspace, request: pytest.FixtureRequest
) -> None:
    page = client.get("/fine-tunes/").content.decode()
    assert "Make a model that answers as you would" in page
    assert re.search(r'button-primary" href="/data/"', page)
    request.getfixturevalue("version")
    page = client.get("/fine-tunes/").content.decode()
    assert re.search(r'button-primary" href="/fine-tunes/new/"', page)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "queued"),
        ({"state": "validating_files"}, "checking the data"),
        ({"state": "running"}, "training"),
        (RUNNING, "training 42 %"),
        (RUNNING | {"wish": "pause"}, "pausing"),
        (RUNNING | {"wish": "cancel"}, "cancelling"),
        ({"state": "paused"}, "paused"),
        ({"state": "succeeded"}, "succeeded"),
        ({"state": "failed"}, "failed"),
        ({"state": "cancelled"}, "cancelled"),
    ],
)
def test_the_list_says_in_a_word_how_each_is_and_asks_again_while_one_is_under_way(
    fields: dict[str, Any], word: str, client: Client, job: Job
) -> None:
    changed(job, **fields)
    page = client.get("/fine-tunes/").content.decode()
    assert words(page) == [word]
    for said in ("support", "Conversations", "Support, 1", "tiny-instruct", "Alice", "just now"):
        assert said in page
    assert ("data-busy" in page) == (not job.is_finished and job.state != "paused")
    assert words(client.get("/fine-tunes/list").content.decode()) == [word]
    assert word in shown(client, job)


def test_the_list_reads_in_one_go_what_it_shows_and_nothing_that_may_be_much(
    client: Client, job: Job, workspace: Workspace, alice: User
) -> None:
    def asked() -> list[str]:
        with CaptureQueriesContext(connection) as queries:
            assert words(client.get("/fine-tunes/list").content.decode())
        return [query["sql"] for query in queries]

    changed(job, **RUNNING)
    asked()  # the session begins
    alone = asked()
    for state in ("running", "paused", "succeeded", "failed", "cancelled"):
        more = {"evaluation": classified("binary"), "chosen": [{}], "data": {"tokens": 5}, "state": state}
        make_job(workspace, alice, job.base, job.version, **more)
    together = asked()
    assert len(together) == len(alone)
    much = ('"evaluation"', '"chosen"', '"training_datasetversion"')
    assert not [sql for sql in together if any(name in sql for name in much)]


def test_a_long_list_is_read_a_page_at_a_time_and_what_is_refreshed_is_the_page_that_is_read(
    client: Client, job: Job, workspace: Workspace, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_views, "PAGE_SIZE", 2)
    begun = [job.pk, *(make_job(workspace, alice, job.base, job.version).pk for _ in range(2))]
    begun += [make_search(workspace, alice).pk, make_job(workspace, alice, job.base, job.version).pk]
    seen = []
    for number in (1, 2, 3):
        page = client.get(f"/fine-tunes/?page={number}").content.decode()
        seen += re.findall(r'id="(?:job|search)-([0-9a-f-]{36})"', page)
        refreshed = re.search(r'data-refresh="(/fine-tunes/list[^"]*)"', page)
        assert refreshed
        assert client.get(refreshed[1]).content.decode().strip() in page
        assert ("Newer" in page, "Older" in page) == (number > 1, number < 3)
    assert seen == [str(pk) for pk in reversed(begun)]
    for nonsense in ("", "0", "-1", "x", "99999", "²", "9" * 99):
        assert client.get("/fine-tunes/", {"page": nonsense}).status_code == 200


def test_a_job_that_a_program_began_says_that_its_files_are_being_checked(client: Client, job: Job) -> None:
    changed(job, state="validating_files", task="", version=None, data_hash="", data_label="orders.jsonl")
    page = shown(client, job)
    assert "orders.jsonl" in page
    assert "Its files are being checked and frozen." in page
    assert "deleted" not in page
    assert "orders.jsonl" in client.get("/fine-tunes/").content.decode()


def test_a_page_is_complete_because_it_is_made_from_rows(client: Client, running: Job) -> None:
    learn(running, 168)
    page = shown(client, running)
    for said in (
        "step 168 of 400", "about 13 minutes left", "1.700", "30 % below the base model", "431", "2.3 GB", "epoch 0.8",
        "The base model has 2.432", "The best was 1.700 at step 160", "10 minutes",
        "It learns from 1,200 examples", "3 could not be used",
        "Learning rate", "0.0005", "For an adapter of a small model.", "as it was set",
        "The learning rate is high.", "It waits for a worker.",
        "Where is my order?", "I am a model.", "At step 160: your order", "At step 40: your order",
        "no longer kept", "the best",
    ):  # fmt: skip
        assert said in page, said
    assert page.count('<svg class="pygal-chart"') == 1
    parts = re.findall(r'data-part="(\w+)"', page)
    assert parts == list(job_page.TEMPLATES)


def test_a_job_that_nobody_is_there_to_do_says_so(client: Client, job: Job, broker: Valkey) -> None:
    snapshots.Reporter("data").publish()
    assert "No worker for fine-tunes is running right now." in shown(client, job)
    snapshots.Reporter("training").publish()
    page = shown(client, job)
    assert "It waits for a free worker." in page
    assert "No worker" not in page
    broker.kill()  # nobody can say
    assert "It waits for a free worker." in shown(client, job)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("evaluating", "It is being judged by the validation split."),
        ("asking", "It is being asked the sample questions."),
        ("saving", "What it has learnt is being saved."),
        ("finishing", "Its result is being written and judged."),
        ("publishing", "Its model is being put where workers find it."),
        ("loading", "The model is being loaded."),
    ],
)
def test_what_takes_a_while_beside_the_steps_is_said_while_it_does(
    stage: str, said: str, client: Client, running: Job
) -> None:
    assert said not in shown(client, running)
    assert said in shown(client, changed(running, stage=stage))
    for state in ("paused", "failed", "succeeded"):
        assert said not in shown(client, changed(running, state=state))


def test_a_page_of_very_many_checkpoints_shows_the_last_and_the_best_of_each_prompt(
    client: Client, running: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_page, "MOST_CHECKPOINTS", 3)
    learn(running, 160, every=20)
    page = shown(client, running)
    assert "Only the last 3 are listed." in page
    assert re.findall(r'<th scope="row" data-label="Step">(\d+)</th>', page) == ["160", "140", "120"]
    asked = re.findall(r"<dt>Step (\d+)[^<]*</dt>", page)
    assert asked == ["160", "140", "120"] * 2
    assert page.count("I am a model.") == 2
    # Who tries it is answered by the best, which need not be the last.
    changed(running, state="succeeded", best_step=80)
    page = shown(client, running)
    assert re.findall(r"<dt>Step (\d+) · the best</dt>", page) == ["80", "80"]
    assert re.findall(r"<dt>Step (\d+)[^<]*</dt>", page) == ["80", "160", "140", "120"] * 2
    assert "At other checkpoints" in page


def test_numbers_of_a_slow_machine_and_of_a_job_that_learns_nothing_are_honest(
    client: Client, running: Job
) -> None:
    changed(running, rate=0.43, best_validation_loss=2.6754)
    page = shown(client, running)
    assert "<dd>0.43</dd>" in page
    assert "10 % above the base model" in page
    assert "Without JavaScript this page stands still" in page
    assert "Without JavaScript" not in shown(client, changed(running, state="paused"))


@pytest.mark.parametrize(
    ("fields", "filled", "others"),
    [
        ({}, [], ["Pause", "Cancel"]),
        (RUNNING, [], ["Pause", "Cancel"]),
        (RUNNING | {"wish": "pause"}, [], ["Cancel"]),
        (RUNNING | {"wish": "cancel"}, [], []),
        ({"state": "paused"}, ["Resume"], ["Cancel"]),
        ({"state": "succeeded", "model": served}, ["Try it"], [TAKE, "Another like this"]),
        (
            {"state": "succeeded", "model": whole, "task": "scratch"},
            ["Try it"],
            ["Download the model (1 bytes)", "Another like this"],
        ),
        (
            {"state": "succeeded", "model": served, "task": "classification"},
            ["Judge it"],
            [TAKE, "Another like this"],
        ),
        ({"state": "succeeded"}, [], ["Another like this"]),
        ({"state": "failed", "error_code": "disk"}, ["Resume"], ["Another like this"]),
        ({"state": "failed", "error_code": "nan"}, ["Change the settings"], ["Resume"]),
        ({"state": "failed", "error_code": "disk", "version": None}, ["Change the settings"], []),
        ({"state": "cancelled"}, [], ["Another like this"]),
        ({"state": "cancelled", "step": 40}, [], ["Resume", "Another like this"]),
    ],
)
def test_the_one_next_step_is_the_one_filled_button(
    fields: dict[str, Any], filled: list[str], others: list[str], client: Client, job: Job
) -> None:
    changed(job, **{name: value(job) if callable(value) else value for name, value in fields.items()})
    if fields.get("step") == 40:
        job.checkpoints.create(step=40)
    page = shown(client, job)
    part = page[page.index('data-part="state"') : page.index('data-part="figures"')]
    buttons = re.findall(r'class="button( button-primary)?"[^>]*>([^<]+)<', part)
    assert [said for primary, said in buttons if primary] == filled
    assert [said for primary, said in buttons if not primary] == others
    # Who wants what was learnt so far has to know which button keeps it.
    assert ("Cancelling saves what it can at once, and keeps it for a while." in part) == ("Cancel" in others)
    if filled == ["Try it"]:
        assert f'href="/?model={job.model_id}"' in part


def test_a_cancelled_job_says_until_when_it_can_be_resumed(
    client: Client, job: Job, settings: Settings
) -> None:
    job.checkpoints.create(step=40)
    changed(job, state="cancelled", step=40, finished_at=datetime(2026, 11, 30, 12, tzinfo=UTC))
    assert "The checkpoint of step 40 is kept until Dec. 7, 2026: it can be resumed" in shown(client, job)
    settings.RETENTION_CANCELLED_DAYS = 0
    assert "The checkpoint of step 40 is kept: it can still be resumed." in shown(client, job)


def test_a_failed_job_says_until_when_what_it_saved_is_kept_and_can_be_resumed_till_then(
    client: Client, job: Job, settings: Settings
) -> None:
    checkpoint = job.checkpoints.create(step=40)
    ended = {"state": "failed", "error_code": "disk", "finished_at": datetime(2026, 11, 30, 12, tzinfo=UTC)}
    changed(job, step=40, **ended)
    assert "The checkpoint of step 40 is kept until Dec. 30, 2026." in shown(client, job)
    settings.RETENTION_FAILED_DAYS = 0
    assert "The checkpoint of step 40 is kept, with everything this page shows." in shown(client, job)
    job_services.forget_checkpoints(state="failed", ids=[job.pk], before=timezone.now() + timedelta(days=400))
    checkpoint.refresh_from_db()
    assert not checkpoint.is_kept
    page = shown(client, job)
    assert "What it had saved is no longer kept." in page
    assert 'id="job-resume"' not in page
    assert "goes on from there" not in page
    assert "would end the same way" not in page
    answer = client.post(f"/fine-tunes/{job.pk}/resume/", follow=True)
    assert (
        "What this fine-tune had saved is no longer kept. Begin another like it." in answer.content.decode()
    )
    job.refresh_from_db()
    assert job.state == "failed"


def test_a_failure_says_what_happened_what_was_kept_and_what_to_do(client: Client, job: Job) -> None:
    changed(job, state="failed", error_code="oom", error_message=NO_MEMORY)
    page = shown(client, job)
    # A knob is called what the form calls it.
    assert "lower “Tokens of a pass” or “Longest example”, or turn “Compute activations twice” on." in page
    assert "It ended before its first checkpoint: nothing of it was kept" in page
    assert "change them and begin anew" in page
    learn(job, 80)
    changed(
        job,
        error_code="disk",
        error_message="There is no room left on the disk; the last checkpoint is kept.",
    )
    page = shown(client, job)
    assert "The checkpoint of step 80 is kept" in page
    assert "Once the reason is gone, it goes on from there." in page


@pytest.mark.parametrize(
    ("act", "before", "state", "wish"),
    [
        ("pause", {}, "paused", ""),
        ("pause", {"state": "running"}, "running", "pause"),
        ("cancel", {"state": "running"}, "running", "cancel"),
        ("cancel", {"state": "paused"}, "cancelled", ""),
        ("resume", {"state": "paused"}, "queued", ""),
    ],
)
def test_buttons_do_what_they_say_and_lead_back(
    act: str, before: dict[str, str], state: str, wish: str, client: Client, job: Job
) -> None:
    changed(job, **before)
    assert client.post(f"/fine-tunes/{job.pk}/{act}/").headers["Location"] == f"/fine-tunes/{job.pk}/"
    job.refresh_from_db()
    assert (job.state, job.wish) == (state, wish)


def test_what_cannot_be_done_any_more_is_said_on_the_page(client: Client, job: Job) -> None:
    changed(job, state="succeeded")
    page = client.post(f"/fine-tunes/{job.pk}/pause/", follow=True).content.decode()
    assert "This fine-tune has ended already." in page


def test_what_another_tab_made_impossible_is_said_on_the_page_that_asked_for_it(
    client: Client, running: Job
) -> None:
    page = f"/fine-tunes/{running.pk}/"
    answer = client.post(f"{page}delete/", headers={"Referer": f"http://testserver{page}"}, follow=True)
    assert answer.redirect_chain == [(page, 302)]
    assert "Cancel this fine-tune before you delete it." in answer.content.decode()
    assert Job.objects.exists()


def test_a_finished_one_can_be_deleted_for_good_and_another_not(client: Client, running: Job) -> None:
    assert "Delete this fine-tune" not in shown(client, running)
    assert client.post(f"/fine-tunes/{running.pk}/delete/").status_code == 409
    changed(running, state="cancelled")
    assert "Delete this fine-tune" in shown(client, running)
    assert client.post(f"/fine-tunes/{running.pk}/delete/").headers["Location"] == "/fine-tunes/"
    assert not Job.objects.exists()


def test_buttons_that_come_over_the_socket_belong_to_a_form_of_the_page(client: Client, running: Job) -> None:
    page = shown(client, running)
    forms = page[page.index('id="job-act"') :]
    assert "csrfmiddlewaretoken" in forms.split("</form>")[0]
    for html in job_page.parts(running).values():
        assert "<form" not in html


def test_thousands_of_steps_are_a_few_hundred_points_and_the_last_one_is_among_them(running: Job) -> None:
    Measurement.objects.bulk_create(
        Measurement(job=running, kind="train", step=n, loss=4000 - n) for n in range(1, 4001)
    )
    points = job_page.losses(running, "train")
    assert 200 < len(points) <= job_page.MOST_POINTS
    assert points[-1][0] == 4000
    # Each is the mean of what it stands for: nothing is left out.
    assert abs(sum(loss for _step, loss in points) / len(points) - 2000) < 100
    assert [step for step, _loss in points] == sorted(step for step, _loss in points)


def test_both_curves_and_the_base_model_are_in_one_picture_without_code_or_colours_of_its_own() -> None:
    drawn = job_charts.losses([(n, 3 / n) for n in range(1, 40)], [(0, 2.5), (20, 1.5)], 2.5)
    assert re.findall(r"series serie-(\d)", drawn.split("overlay")[0]) == ["0", "1", "2"]
    assert drawn.count('class="line reactive nofill"') == 3
    assert drawn.count("<circle") == 2
    assert not INLINE.search(drawn)
    assert "#" not in drawn
    assert drawn == job_charts.losses([(n, 3 / n) for n in range(1, 40)], [(0, 2.5), (20, 1.5)], 2.5)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 0), (1, 1), (0.3, 3.2), (-4, -1), (0, 1e9), (1e-7, 2e-7), (12.5, 12.500001), (3, 10_000)],
)
def test_axes_have_a_few_round_ticks_that_hold_everything(low: float, high: float) -> None:
    ticks = job_charts.ticks(low, high)
    assert ticks[0] <= low
    assert high <= ticks[-1] + 1e-9
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    "numbers", [([], [], None), ([(1, 2.0)], [], None), ([], [(0, 2.0)], 2.0), ([(1, 0.0)], [(1, 0.0)], 0.0)]
)
def test_a_curve_that_has_hardly_begun_is_drawn_too(numbers: Any) -> None:
    assert job_charts.losses(*numbers).startswith("<svg")


def test_every_measurement_can_be_downloaded(client: Client, running: Job) -> None:
    learn(running, 80)
    answer = client.get(f"/fine-tunes/{running.pk}/losses.csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["step"] for row in rows if row["kind"] == "validation"] == ["0", "40", "80"]
    first = next(row for row in rows if row["kind"] == "train")
    assert (first["step"], float(first["loss"]), first["learning_rate"]) == ("1", 2.9, "0.0005")
    assert len(rows) == 83


def test_of_many_labels_the_first_are_shown_and_the_others_are_a_click_away(
    client: Client, running: Job
) -> None:
    made = classified("multilabel")
    made["classes"] = [made["classes"][0] | {"label": f"label {n}"} for n in range(40)]
    changed(running, task="classification", evaluation=made | {"labels": [f"label {n}" for n in range(40)]})
    page = shown(client, running)
    first, others = page.split('<details id="more-labels">')
    assert "10 more labels" in others
    assert [n for n in range(40) if f">label {n}</th>" in first] == [*range(30)]
    assert [n for n in range(40) if f">label {n}</th>" in others] == [*range(30, 40)]


def test_a_classifiers_scores_are_tables_and_pictures(client: Client, running: Job) -> None:
    changed(running, task="classification", evaluation=classified())
    page = shown(client, running)
    for said in (
        "On the test split",
        "0.863",
        "0.310 by always guessing the commonest",
        "0.951",
        "ROC curve",
    ):
        assert said in page, said
    matrix = confusion(page)
    assert len(re.findall(r'<g class="wrong shade-\d+"', matrix)) == 12
    assert len(re.findall(r'<g class="right shade-9"', matrix)) == 4
    assert "<title>billing, predicted as thanks: 5</title>" in matrix
    assert "<bdi>billing</bdi> was taken for <bdi>thanks</bdi>: 5 times" in matrix
    assert len(re.findall(r"<td(?: class=\"right\")?>\d+</td>", matrix)) == 16
    drawn = page[page.index('class="chart square roc') :]
    assert drawn.split("</svg>")[0].split("overlay")[0].count('class="line reactive') == 5  # and chance
    assert "Examples a second" in page


def test_of_very_many_labels_the_first_are_shown_and_the_others_are_a_click_away(
    client: Client, running: Job
) -> None:
    evaluation = classified()
    score = evaluation["classes"][0]
    evaluation["classes"] = [score | {"label": f"label {n}"} for n in range(40)]
    page = shown(client, changed(running, evaluation=evaluation))
    before, _, behind = page.partition('<details id="more-labels"><summary>10 more labels</summary>')
    assert ">label 29</th>" in before
    assert behind.split("</details>")[0].count(">label 3") == 10


def test_of_two_labels_one_curve_says_it_all(client: Client, running: Job) -> None:
    changed(running, evaluation=classified("binary"))
    page = shown(client, running)
    assert re.findall(r'<li class="legend-\d"><bdi>(\w+)', page) == ["spam"]


def test_where_several_labels_are_right_each_has_its_mistakes_in_a_picture(
    client: Client, running: Job
) -> None:
    found = classified("multilabel")
    found["reasons"] = {"confusion": "A text may have several labels; each label has a matrix of its own."}
    found["classes"][2]["confusion"] = [[1234, 0], [30, 10]]
    changed(running, task="classification", evaluation=found)
    page = shown(client, running)
    assert "Confusion matrix" not in page
    assert "a matrix of its own" not in page
    drawn = confusion(page)
    assert drawn.count("<g class=") == 4 * 4
    for said in ("Rightly given: 10", "Missed: 30", "Rightly not given: 1,234"):
        assert f"<title>returns, {said}</title>" in drawn
    # Of the forty that have it; and of those that have not.
    assert re.findall(r'<g class="(\w+ shade-\d+)"', drawn)[8:12] == [
        "right shade-3",
        "wrong shade-8",
        "wrong shade-0",
        "right shade-10",
    ]
    assert re.findall(r"<bdi>(\w+)</bdi>: (\d+) missed, (\d+) wrongly given", drawn)[0] == (
        "returns",
        "30",
        "0",
    )
    cells = [int(number.replace(",", "")) for number in re.findall(r"<td[^>]*>([\d,]+)</td>", drawn)]
    assert cells[8:12] == [10, 30, 0, 1234]


def test_of_very_many_labels_that_may_be_several_those_with_most_mistakes_are_drawn(
    client: Client, running: Job
) -> None:
    found = classified("multilabel")
    usual = found["classes"][0]
    found["classes"] = [usual | {"label": f"label {n}", "confusion": [[100, n], [0, 1]]} for n in range(40)]
    changed(running, task="classification", evaluation=found)
    drawn = confusion(shown(client, running))
    assert drawn.count("<g class=") == 30 * 4
    assert "These are the 30 of 40 labels with the most mistakes." in drawn
    assert "label 9<" not in drawn
    assert drawn.index("label 10<") < drawn.index("label 39<")


def test_what_is_not_defined_is_a_dash_and_a_sentence(client: Client, running: Job) -> None:
    changed(running, task="regression", evaluation=REGRESSED)
    page = shown(client, running)
    assert "<dt>R²</dt><dd>—" in page
    assert "All numbers are the same." in page
    assert "7.600 by always guessing the mean" in page
    drawn = page[page.index('class="chart square scatter') :].split("</svg>")[0]
    assert drawn.count("<circle") == 80
    nothing = classified() | {"confusion": None, "accuracy": None, "classes": []}
    nothing["macro"] = dict.fromkeys(nothing["macro"])
    changed(running, evaluation=nothing)
    assert "—" in shown(client, running)


def confusion(page: str) -> str:
    return page[page.index('aria-labelledby="confusion"') :].split("</section>")[0]


def of_many(count: int) -> dict[str, Any]:
    """A classifier of so many labels, which takes label 7 for label 8 often, and is right five times of each."""
    found = classified()
    found["labels"] = [f"label {n}" for n in range(count)]
    found["confusion"] = [[5 if x == y else 0 for x in range(count)] for y in range(count)]
    found["confusion"][7][8] = 1234
    found["confusion"][7][count - 1] = 3
    found["confusion"][30][31] = 1
    return found


def test_of_very_many_labels_those_that_are_confused_most_are_drawn_and_the_others_summed_up(
    client: Client, running: Job
) -> None:
    changed(running, task="classification", evaluation=of_many(40))
    matrix = confusion(shown(client, running))
    assert matrix.count("<g class=") == 21 * 21
    assert "<title>label 7, predicted as label 8: 1,234</title>" in matrix
    assert "<title>label 7, predicted as label 39: 3</title>" in matrix
    assert "These are the 20 of 40 labels that are confused most" in matrix
    # Twenty labels that are never wrong meet there: what is right of them is not a mistake.
    assert '<g class="mixed shade-10"' in matrix
    assert "20 others, predicted as 20 others: 100" in matrix
    assert "Where these meet, 100 of 100 are right." in matrix
    cells = [int(number.replace(",", "")) for number in re.findall(r"<td[^>]*>([\d,]+)</td>", matrix)]
    assert sum(cells) == 40 * 5 + 1234 + 3 + 1


def test_of_more_labels_than_have_curves_the_trainers_part_of_the_matrix_is_drawn(
    client: Client, running: Job
) -> None:
    many = of_many(120)
    why = {"confusion": "There are more than 100 labels."}
    part = msgspec.to_builtins(most_confused(many["labels"], many["confusion"]))
    changed(
        running,
        task="classification",
        evaluation=many | {"confusion": None, "confused": part, "reasons": why},
    )
    page = shown(client, running)
    assert "<title>label 7, predicted as label 8: 1,234</title>" in confusion(page)
    assert "There are more than 100 labels." not in page
    # Evaluations from before it was kept have none, and say so.
    changed(running, evaluation=many | {"confusion": None, "reasons": why})
    page = shown(client, running)
    assert "Confusion matrix" not in page
    assert "There are more than 100 labels." in page


def test_a_long_or_hostile_label_stays_a_label_in_the_picture(client: Client, running: Job) -> None:
    found = classified("binary")
    found["labels"] = [EVIL, "a label that is much longer than a picture has room for"]
    changed(running, task="classification", evaluation=found)
    matrix = confusion(shown(client, running))
    assert EVIL not in matrix
    assert (
        ">a label t…room for<title>a label that is much longer than a picture has room for</title>" in matrix
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 seconds"),
        (1, "1 second"),
        (59.6, "1 minute"),
        (3600, "1 hour"),
        (12_000, "3 hours 20 minutes"),
        (187_200, "2 days 4 hours"),
        (-5, "0 seconds"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert job_words.spoken_time(seconds) == said


def test_no_page_runs_what_it_shows(
    client: Client, alice: User, workspace: Workspace, dataset: Dataset, running: Job
) -> None:
    learn(running, 40)
    User.objects.update(name=EVIL)
    Dataset.objects.update(name=EVIL)
    ServedModel.objects.update(name=EVIL)
    Sample.objects.update(prompt=EVIL, answer=EVIL)
    JobEvent.objects.update(message=EVIL)
    evil = classified()
    evil["labels"] = [EVIL] * 4
    evil["reasons"] = {"accuracy": EVIL}
    for row in evil["classes"]:
        row["label"] = EVIL
    changed(
        running, name=EVIL[:64], data_label=EVIL, state="failed", error_message=EVIL, evaluation=evil,
        chosen=[{"knob": EVIL, "value": EVIL, "why": EVIL}], spec={"lora": {"targets": [EVIL]}},
    )  # fmt: skip
    pages = ["/fine-tunes/", "/fine-tunes/list", "/fine-tunes/new/", f"/fine-tunes/{running.pk}/"]
    client.get(f"/fine-tunes/new/?job={running.pk}")
    pages += ["/fine-tunes/new/method/", "/fine-tunes/new/settings/"]
    for page in pages:
        text = client.get(page).content.decode()
        assert "onerror" in text, page
        assert "<img src=x" not in text, page
        assert not INLINE.search(text.replace("onerror=alert", "")), page


def test_a_job_without_anything_has_a_page(client: Client, workspace: Workspace, alice: User) -> None:
    job = make_job(workspace, alice, None, None, task="scratch", spec={})
    Job.objects.filter(pk=job.pk).update(created_by=None)
    assert "Everything was left as it is." in shown(client, job)


def test_rows_in_english_are_said_in_the_readers_language(client: Client, running: Job) -> None:
    learn(running, 40)
    JobEvent.objects.filter(number=1).update(message="Step 40 is saved.")
    changed(running, state="failed", error_message=NO_MEMORY)
    page = client.get(f"/fine-tunes/{running.pk}/", headers={"Accept-Language": "zh-Hans"}).content.decode()
    assert "第 40 步已保存。" in page
    assert "请减小 “每遍的词元数” 或 “最长样本”" in page
    assert "1200 个样本。" in page
    english = [
        said
        for said in ("Settings", "Sample answers", "Loss", "Resume", "Delete", "failed")
        if f">{said}<" in page
    ]
    assert english == []


def test_a_job_outlives_its_data(client: Client, running: Job) -> None:
    assert "(deleted)" not in shown(client, running)
    changed(running, version=None, state="paused")
    page = shown(client, running)
    assert "Support, 1" in page
    assert "(deleted)" in page
    # There is nothing to go on with.
    assert 'id="job-resume"' not in page
