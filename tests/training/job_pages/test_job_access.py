"""Every address of the pages of fine-tunes, asked by each of the cast: owners and admins may, nobody else does."""

from __future__ import annotations

import uuid

import pytest
from django.test import Client
from django.urls import reverse

from inference.models import ServedModel
from tests.training.data_pages.conftest import LogIn
from tests.training.job_pages.rows import make_search, make_version
from training import services, urls
from training.models import DatasetVersion, Job, Search
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db

OF_JOBS = [pattern for pattern in urls.urlpatterns if str(pattern.pattern).startswith("fine-tunes/")]
OF_ONE = ("job", "job_losses", "search", "search_now")
PAGES = ("jobs", "jobs_list", "job_new", *OF_ONE)
MADE = ("job_model",)  # there once it has learnt
LED_ON = ("job_new_method", "job_new_settings")  # pages that lead to the first one where nothing was chosen
ACTS = ("job_try", "job_pause", "job_resume", "job_cancel", "job_delete", "search_cancel", "search_delete")


@pytest.fixture
def paths(job: Job, alice: User) -> dict[str, str]:
    ids = {"job_id": job.pk, "search_id": make_search(job.workspace, alice).pk}
    return {
        str(pattern.name): reverse(
            str(pattern.name), kwargs={name: ids[name] for name in pattern.pattern.converters}
        )
        for pattern in OF_JOBS
    }


def rows() -> list[object]:
    searches = Search.objects.values_list("pk", "name", "cancel_requested", "finished_at")
    return [*sorted(Job.objects.values_list("pk", "name", "state", "wish")), *searches]


def test_no_address_is_missing_here() -> None:
    assert {pattern.name for pattern in OF_JOBS} == {*PAGES, *MADE, *LED_ON, *ACTS}


@pytest.mark.parametrize("who", ["alice", "dora"])
def test_owners_and_admins_see_every_page(
    who: str, paths: dict[str, str], dora: User, request: pytest.FixtureRequest, logged_in: LogIn
) -> None:
    client = logged_in(request.getfixturevalue(who))
    assert {name: client.get(paths[name]).status_code for name in PAGES} == dict.fromkeys(PAGES, 200)
    for name in LED_ON:
        assert client.get(paths[name]).headers["Location"] == paths["job_new"]
    assert "Fine-tunes" in client.get("/").content.decode()


@pytest.mark.parametrize("who", ["bob", "charlie"])
def test_members_and_outsiders_find_no_job_and_change_none(
    who: str, paths: dict[str, str], elsewhere: Workspace, request: pytest.FixtureRequest, logged_in: LogIn
) -> None:
    client = logged_in(request.getfixturevalue(who))
    before = rows()
    assert {name: client.get(paths[name]).status_code for name in OF_ONE} == dict.fromkeys(OF_ONE, 404)
    assert {name: client.post(paths[name]).status_code for name in ACTS} == dict.fromkeys(ACTS, 404)
    assert rows() == before


def test_a_member_finds_no_page_of_fine_tunes_and_no_link_to_it(
    paths: dict[str, str], version: DatasetVersion, base: ServedModel, bob: User, logged_in: LogIn
) -> None:
    client = logged_in(bob)
    for name in ("jobs", "jobs_list", "job_new", *LED_ON):
        assert client.get(paths[name]).status_code == 404, name
    asked = {"source": f"{version.pk}:chat", "base": str(base.pk), "method": "lora", "name": "mine"}
    for name in ("job_new", *LED_ON):
        assert client.post(paths[name], asked).status_code == 404, name
    assert Job.objects.count() == 1
    assert "/fine-tunes/" not in client.get("/").content.decode()


def test_an_outsiders_own_pages_show_and_take_nothing_of_anybody_elses(
    paths: dict[str, str],
    job: Job,
    version: DatasetVersion,
    base: ServedModel,
    elsewhere: Workspace,
    charlie: User,
    logged_in: LogIn,
) -> None:
    make_version(services.create_dataset(user=charlie, workspace=elsewhere, name="Own"))
    client = logged_in(charlie)
    listed = client.get(paths["jobs"]).content.decode()
    assert "support" not in listed
    assert "tone" not in listed
    first = client.get(f"{paths['job_new']}?version={version.pk}").content.decode()
    assert "Own" in first
    assert f'value="{version.pk}' not in first
    assert client.post(paths["job_new"], {"source": f"{version.pk}:chat"}).status_code == 400
    asked = {"source": f"{version.pk}:chat", "base": str(base.pk), "method": "lora", "name": "mine"}
    for name in LED_ON:
        assert client.post(paths[name], asked).headers["Location"] == paths["job_new"]
    # What another's job was given is not shown either.
    client.get(f"{paths['job_new']}?job={job.pk}")
    assert "fine_tune" not in client.session
    assert Job.objects.count() == 1


def test_strangers_are_asked_to_log_in(paths: dict[str, str]) -> None:
    for name, path in paths.items():
        answer = Client().post(path) if name in ACTS else Client().get(path)
        assert answer.headers["Location"].startswith("/accounts/login/"), name


def test_what_does_not_exist_answers_like_what_is_not_yours(
    alice: User, workspace: Workspace, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    for name in OF_ONE:
        assert client.get(reverse(name, args=[uuid.uuid4()])).status_code == 404
    for name in ACTS:
        assert client.post(reverse(name, args=[uuid.uuid4()])).status_code == 404


def test_pages_that_do_something_are_only_posted_to(
    paths: dict[str, str], alice: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    assert {client.get(paths[name]).status_code for name in ACTS} == {405}
