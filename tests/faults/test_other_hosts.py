"""A site whose inference workers are on hosts of their own, each told what to serve: requests reach who serves them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.db.models import F
from django.test.utils import override_settings
from django.utils import timezone

from inference import model_services
from inference.models import Generation, ServedModel, Worker
from tests.conftest import new_site
from tests.inference.tiny_models import save_model, tiny_config
from tests.live_site import fetch
from tests.services import REAL, Service, Site, wait_until
from webapp.core import shared_storage
from webapp.env import Env

# Processes that import torch, on a machine that has other things to do.
pytestmark = [
    pytest.mark.faults,
    pytest.mark.one_database,
    pytest.mark.django_db(transaction=True),
]
NAMES = ("alpha", "beta", "gamma")


class Hosts:
    """`alpha` is the default model, served by a host of its own; so is `beta`; `gamma` nobody serves."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.workers: dict[str, Service] = {}
        self.key = ""

    def register(self, name: str, layers: int) -> ServedModel:
        """As `models add` on the site's first host."""
        save_model(self.folder / name, tiny_config(num_hidden_layers=layers))
        stored = shared_storage.configuration(Env({"STORAGE_URL": f"file://{self.folder}/shared"}))
        storages = settings.STORAGES | stored
        with self.site.rows(), override_settings(FLYWHEEL_HOME=self.site.home, STORAGES=storages):
            return model_services.register_model(name=name, path=self.folder / name)

    def start(self, name: str, serves: str) -> Service:
        environment = {"FLYWHEEL_HOME": str(self.home(name)), "INFERENCE_MODELS": serves}
        self.workers[name] = self.site.start_inference(environment)
        return self.workers[name]

    def home(self, name: str) -> Path:
        return self.folder / f"host of {name}"

    def ready(self, count: int) -> None:
        wait_until(lambda: self.site.workers_ready() == count, f"{count} workers to be ready", 90, every=0.1)

    def ask(self, model: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.site.base_url}/v1/chat/completions", json=body, headers=headers, timeout=90)

    def cached(self, name: str) -> set[str]:
        folder = self.home(name) / "cache" / "models"
        return {each.name for each in folder.iterdir() if len(each.name) == 64}


@pytest.fixture(scope="module")
def _hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("hosts")
    site = new_site(engine=REAL, environment={"STORAGE_URL": f"file://{folder}/shared"})
    hosts = Hosts(site, folder)
    try:
        site.valkey.start()
        site.migrate()
        for layers, name in enumerate(NAMES, 1):
            hosts.register(name, layers)
        site.web.start()
        site.worker.start()
        site.beat.start()
        for name in ("alpha", "beta"):
            hosts.start(name, serves=name)
        site.create_owner()
        hosts.key = site.manage("createkey", "--email", "alice@example.org").strip()
        hosts.ready(2)
        site.wait_ready()
        yield hosts
    finally:
        site.stop()


@pytest.fixture
def hosts(_hosts: Hosts) -> Hosts:
    for name in ("alpha", "beta"):
        if not _hosts.workers[name].alive:
            _hosts.start(name, serves=name)
    _hosts.ready(2)
    return _hosts


def model(hosts: Hosts, name: str) -> ServedModel:
    with hosts.site.rows():
        return ServedModel.objects.get(name=name)


def test_hosts_that_were_told_different_models_answer_each_with_its_own(hosts: Hosts) -> None:
    for name in ("alpha", "beta", "alpha"):
        answer = hosts.ask(name)
        assert (answer.status_code, answer.json().get("model")) == (200, name), answer.text
    assert hosts.cached("alpha") == {model(hosts, "alpha").manifest}
    assert hosts.cached("beta") == {model(hosts, "beta").manifest}


def test_a_model_that_nobody_serves_is_refused_at_once_and_the_doctor_says_so(hosts: Hosts) -> None:
    answer = hosts.ask("gamma")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "30"), answer.text
    assert answer.json()["error"]["code"] == "model_not_served"
    assert "No worker of this site serves gamma now." in answer.json()["error"]["message"]
    hosts.site.start_data()
    hosts.site.start_training()
    with hosts.site.valkey.client() as client:
        wait_until(
            lambda: all(client.keys(f"fw:figures:{kind}@*") for kind in ("data", "training")),
            "the figures of the other processes",
            every=0.1,
        )
    said = hosts.site.manage("doctor")
    assert "No worker serves gamma." in said
    assert "answers with alpha." in said
    assert "The shared storage takes files and gives them back." in said
    assert "beta is in the shared storage" in said


def test_who_waits_for_a_model_that_is_served_no_more_is_told_so(hosts: Hosts) -> None:
    with hosts.site.rows():
        left = Worker.objects.create(
            hostname="left", pid=1, serves=[model(hosts, "gamma").pk],
            lease_expires_at=timezone.now() + timedelta(minutes=1),
        )  # fmt: skip
    queued = Generation.objects.filter(state=Generation.State.QUEUED)

    def waits() -> bool:
        with hosts.site.rows():
            return queued.exists()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(hosts.ask, "gamma")
        wait_until(waits, "it to wait", 30)
        with hosts.site.rows():  # as a minute later
            left.delete()
            Worker.objects.update(started_at=timezone.now() - timedelta(minutes=2))
            queued.update(deadline=F("deadline") - timedelta(minutes=2))
        answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_served"), answer.text
    assert int(answer.headers["Retry-After"]) > 0


def test_while_one_host_is_deaf_and_then_gone_the_other_answers_and_nothing_is_lost(hosts: Hosts) -> None:
    alpha = hosts.workers["alpha"]
    with ThreadPoolExecutor(3) as pool:
        alpha.freeze()
        waiting = [pool.submit(hosts.ask, "alpha") for _ in range(3)]
        assert hosts.ask("beta").status_code == 200
        alpha.kill()
        hosts.ready(1)
        checks = wait_until(lambda: _not_ready(hosts.site), "the site to say so", 30, every=0.2)
        assert checks["worker"]["code"] == "model_not_served"
        assert "No worker serves alpha, the default model" in checks["worker"]["message"]
        assert not any(each.done() for each in waiting)
        hosts.start("alpha", serves="alpha")
        assert [each.result().status_code for each in waiting] == [200] * 3


def _not_ready(site: Site) -> dict[str, dict[str, str]] | None:
    answer = fetch(f"{site.base_url}/readyz")
    return answer.json()["checks"] if answer.status_code == 503 else None


def test_a_host_that_was_told_nothing_answers_with_what_is_added_while_it_runs(hosts: Hosts) -> None:
    hosts.start("any", serves="")
    hosts.ready(3)
    hosts.register("delta", 4)
    answer = hosts.ask("delta")
    assert (answer.status_code, answer.json().get("model")) == (200, "delta"), answer.text
    hosts.workers["any"].stop()
    with hosts.site.rows():
        Worker.objects.filter(serves__isnull=True).delete()  # as a minute later


def test_a_wrong_name_is_one_sentence_and_the_worker_ends(hosts: Hosts) -> None:
    worker = hosts.start("wrong", serves="alpha,no-such")
    wait_until(lambda: not worker.alive, "the worker to end", 60)
    last = worker.log().strip().splitlines()[-1]
    assert last == (
        "flywheel: INFERENCE_MODELS names 'no-such', but no model is called so; see: manage.py models list"
    )
