"""A classifier that a job made is tried on the job's page, with a worker that runs and without one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from inference import model_services, services
from inference.models import Generation, ServedModel, Worker
from inference.worker import WorkerHost
from tests.inference.classifiers import LABELS, save_classifier
from tests.inference.tiny_models import save_model
from tests.training.data_pages.conftest import LogIn
from tests.training.job_pages.rows import classified
from training import judging
from training.models import Job
from training.publishing import prepare
from webapp.accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)
SCRIPT = {"HX-Request": "true"}


@pytest.fixture
def client(alice: User, logged_in: LogIn) -> Client:
    return logged_in(alice)


@pytest.fixture
def tiny(home: Path, db: None) -> ServedModel:
    save_model(home / "models" / "tiny")
    return model_services.register_model(name="tiny", path=home / "models" / "tiny")


@pytest.fixture
def trained(job: Job, tiny: ServedModel, tmp_path: Path) -> Callable[..., Job]:
    """The job as it is when it has succeeded, its model published."""

    def ended(kind: Any = "multiclass") -> Job:
        job.task = "regression" if kind == "regression" else "classification"
        job.base, job.state = tiny, Job.State.SUCCEEDED
        job.evaluation = classified(kind) if kind != "regression" else None
        folder = tmp_path / "left"
        save_classifier(folder / "adapter", tiny.location, kind)
        job.model = prepare(job, folder).save()
        job.save()
        return job

    return ended


@pytest.fixture
def worker(settings: Any, tiny: ServedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that runs what is sent, as Celery's threads would."""
    settings.INFERENCE_DTYPE, settings.INFERENCE_COMPILE = "fp32", False
    host = WorkerHost(give_up=lambda: None)
    running: list[threading.Thread] = []

    def run(task: services.Task) -> None:
        try:
            host.run(task.generation, task.model)
        finally:
            connections.close_all()

    def send(tasks: Sequence[services.Task]) -> None:
        for task in tasks:
            running.append(threading.Thread(target=run, args=(task,)))
            running[-1].start()

    monkeypatch.setattr(services, "send_tasks", send)
    host.start()
    assert host.loaded.wait(20)
    yield
    for thread in running:
        thread.join(10)
    host.stop()


@pytest.fixture
def silent_worker(db: None) -> None:
    """One that says it is ready, and answers nobody."""
    Worker.objects.create(
        hostname="elsewhere", pid=1, state="ready", lease_expires_at=timezone.now() + timedelta(minutes=1)
    )


def verdicts(html: str) -> list[tuple[str, str, float, str]]:
    """Of each: whether it is the one, its label, how long its bar is, and what is written beside it."""
    found = re.findall(
        r'<li( class="given")?><span dir="auto">([^<]+)</span> <meter min="0" max="1" value="([\d.]+)"[^>]*></meter>'
        r' <span class="number">([\d.]+) %</span>',
        html,
    )
    return [("given" if given else "", label, float(bar), said) for given, label, bar, said in found]


@pytest.mark.usefixtures("worker")
def test_a_text_gets_its_labels_likeliest_first_and_nothing_of_it_is_kept(
    client: Client, trained: Callable[..., Job]
) -> None:
    address = f"/fine-tunes/{trained().pk}/"
    page = client.get(address).content.decode()
    assert re.search(r'<textarea id="try-text" name="text" form="judge"', page)
    assert f'<form id="judge" method="post" action="{address}try/"' in page
    said = client.post(
        f"{address}try/", {"text": "Where is my <b>order</b>?"}, headers=SCRIPT
    ).content.decode()
    assert "<html" not in said
    found = verdicts(said)
    assert {label for _, label, _, _ in found} == set(LABELS["multiclass"])
    assert [given for given, *_ in found] == ["given", "", "", ""]
    bars = [bar for _, _, bar, _ in found]
    assert bars == sorted(bars, reverse=True)
    assert sum(bars) == pytest.approx(1, abs=1e-3)
    assert found[0][3] == f"{100 * bars[0]:.1f}"
    assert not Generation.objects.exists()
    # Without scripts it is the page again, with what was typed and what was said of it.
    page = client.post(f"{address}try/", {"text": "Where is my <b>order</b>?"}).content.decode()
    assert ">Where is my &lt;b&gt;order&lt;/b&gt;?</textarea>" in page
    assert verdicts(page) == found
    assert 'data-part="events"' in page


@pytest.mark.usefixtures("worker")
def test_of_several_labels_all_likely_ones_are_given_and_a_number_is_a_number(
    client: Client, trained: Callable[..., Job]
) -> None:
    job = trained("multilabel")
    address = f"/fine-tunes/{job.pk}/try/"
    found = verdicts(client.post(address, {"text": "It is late again"}, headers=SCRIPT).content.decode())
    assert {label for _, label, _, _ in found} == set(LABELS["multilabel"])
    assert all((given == "given") == (bar >= 0.5) for given, _, bar, _ in found)
    ServedModel.objects.filter(pk=job.model_id).delete()
    trained("regression")
    said = client.post(address, {"text": "It is late again"}, headers=SCRIPT).content.decode()
    assert re.search(r'<dd id="judged-value">-?\d+\.\d{3}</dd>', said)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" \n", "Write something first."),
        ("x" * 20_001, "This text has 20,001 characters; the most is 20,000."),
    ],
)
def test_what_cannot_be_judged_is_said_on_the_page(
    text: str, why: str, client: Client, trained: Callable[..., Job]
) -> None:
    said = client.post(f"/fine-tunes/{trained().pk}/try/", {"text": text}, headers=SCRIPT).content.decode()
    assert f'role="alert">{why}<' in said


def test_without_a_worker_it_says_so_and_asks_nobody(client: Client, trained: Callable[..., Job]) -> None:
    page = client.post(f"/fine-tunes/{trained().pk}/try/", {"text": "Hello"}).content.decode()
    assert "Nothing is here to answer right now." in page
    assert not Generation.objects.exists()


@pytest.mark.usefixtures("silent_worker")
@pytest.mark.parametrize(
    ("state", "why"), [("loading", "Nothing is here to answer right now."), (None, "No worker of this site serves")]
)  # fmt: skip
def test_where_nobody_who_serves_the_model_is_ready_it_says_so_and_asks_nobody(
    state: str | None, why: str, client: Client, trained: Callable[..., Job]
) -> None:
    job = trained()
    assert job.model is not None
    Worker.objects.update(serves=[job.model.whole_id + 1])
    if state is not None:
        Worker.objects.create(
            hostname="here", pid=2, state=state, lease_expires_at=timezone.now() + timedelta(minutes=1)
        )
    assert why in client.post(f"/fine-tunes/{job.pk}/try/", {"text": "Hello"}).content.decode()
    assert not Generation.objects.exists()


@pytest.mark.usefixtures("silent_worker")
def test_a_page_waits_no_longer_than_it_may(
    client: Client, trained: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "PATIENCE", 0.1)
    address = f"/fine-tunes/{trained().pk}/try/"
    assert (
        "No answer came in time" in client.post(address, {"text": "Hello\0"}, headers=SCRIPT).content.decode()
    )
    assert not Generation.objects.exists()


@pytest.mark.usefixtures("worker")
def test_a_model_that_is_damaged_says_what_the_worker_said(
    client: Client, trained: Callable[..., Job]
) -> None:
    job = trained()
    assert job.model is not None
    (job.model.location / "adapter_model.safetensors").unlink()
    said = client.post(f"/fine-tunes/{job.pk}/try/", {"text": "Hello"}, headers=SCRIPT).content.decode()
    assert "cannot be used. adapter_model.safetensors" in said


def test_there_is_nothing_to_try_before_it_succeeded_and_after_it_was_removed(
    client: Client, job: Job, trained: Callable[..., Job]
) -> None:
    address = f"/fine-tunes/{job.pk}/"
    assert 'id="try-text"' not in client.get(address).content.decode()
    assert client.post(f"{address}try/", {"text": "Hello"}).status_code == 404
    trained()
    assert 'id="try-text"' in client.get(address).content.decode()
    ServedModel.objects.update(removed_at=timezone.now())
    assert 'id="try-text"' not in client.get(address).content.decode()
    assert client.post(f"{address}try/", {"text": "Hello"}).status_code == 404
