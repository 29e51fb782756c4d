"""A default model that is not there yet, or went away while no worker ran: said, and loaded once it is there."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from pytest_django.fixtures import Settings

from inference import engine_thread, services
from inference.models import Generation, ServedModel, Worker
from inference.parameters import SamplingParams
from inference.worker import WorkerHost, load_engine
from tests.inference.tiny_models import save_model
from tests.services import wait_until
from webapp.accounts.models import Workspace
from webapp.ops import health

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def folder(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.FLYWHEEL_HOME, settings.MODELS_DIR = tmp_path, tmp_path / "models"
    settings.INFERENCE_ENGINE = "inference.worker.load_engine"
    settings.INFERENCE_COMPILE = False
    monkeypatch.setattr(engine_thread, "_RELOAD_SECONDS", 0.1)
    monkeypatch.setattr(health, "CACHE_SECONDS", -1.0)
    folder = settings.MODELS_DIR / "tiny"
    folder.mkdir(parents=True)
    save_model(folder)
    call_command("models", "add", str(folder), stdout=io.StringIO())
    return folder


@pytest.fixture
def host(folder: Path) -> Iterator[WorkerHost]:
    """A worker that finds nothing where its model was."""
    folder.rename(folder.with_name("elsewhere"))
    started = WorkerHost(give_up=lambda: None)
    started.start()
    yield started
    started.stop()


def test_a_model_that_vanished_is_said_and_answers_again_when_it_is_back(
    host: WorkerHost, folder: Path, client: Client, workspace: Workspace
) -> None:
    model = ServedModel.objects.get()

    def ask() -> Generation:
        asked = services.start_generation(
            workspace=workspace,
            model=model,
            messages=[{"role": "user", "content": "Hello"}],
            params=SamplingParams(max_tokens=2),
        )
        host.run(str(asked.id))
        wait_until(lambda: asked.refresh_from_db() or asked.is_finished, "the reply to end")
        return asked

    broken = wait_until(lambda: Worker.objects.filter(state="broken").first(), "the worker to say so")
    assert str(folder) in broken.error or folder.name in broken.error
    check = client.get("/readyz", headers={"Host": "localhost"}).json()["checks"]["worker"]
    assert (check["ok"], check["code"], check["message"]) == (False, "model_broken", broken.error)
    said = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", stdout=said)
    assert f"problem  models: {model.name}: " in said.getvalue()
    assert f"models pull {model.name}, or models add" in said.getvalue()
    failed = ask()
    assert (failed.state, failed.error_code) == ("failed", "model_unavailable")
    folder.with_name("elsewhere").rename(folder)
    wait_until(lambda: Worker.objects.filter(state="ready").exists(), "the model to be loaded")
    assert client.get("/readyz", headers={"Host": "localhost"}).json()["checks"]["worker"]["ok"]
    assert ask().state == "complete"


_let_it_load = threading.Event()


def load_when_let(model: ServedModel, *, beside: Any = None) -> Any:
    """An engine that takes its time, as a large one does on a busy machine."""
    _let_it_load.wait(20)
    return load_engine(model, beside=beside)


def test_a_worker_whose_first_model_has_come_is_loading_and_no_longer_broken(
    folder: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """As after `models pull` on a new site, where workers were started before: nobody is told to mend anything."""
    settings.INFERENCE_ENGINE = f"{__name__}.load_when_let"
    _let_it_load.clear()
    ServedModel.objects.update(is_default=False)
    host = WorkerHost(give_up=lambda: None)
    host.start()
    try:
        broken = wait_until(lambda: Worker.objects.filter(state="broken").first(), "it to miss a model")
        assert broken.error.startswith("No model is installed yet.")
        # A new site has not gone wrong.
        told = [record for record in caplog.records if "No model is installed yet" in record.getMessage()]
        assert [record.levelname for record in told] == ["WARNING"]
        ServedModel.objects.update(is_default=True)
        wait_until(lambda: Worker.objects.filter(state="loading", error="").exists(), "it to load one")
        _let_it_load.set()
        wait_until(lambda: Worker.objects.filter(state="ready").exists(), "it to be ready")
    finally:
        _let_it_load.set()
        host.stop()
