"""A default model whose files went away while no worker ran: said everywhere, and loaded once it is back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import Client
from pytest_django.fixtures import Settings

from inference import engine_thread, services
from inference.models import Generation, ServedModel, Worker
from inference.parameters import SamplingParams
from inference.worker import WorkerHost
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
        wait_until(lambda: asked.refresh_from_db() or asked.is_finished, "the reply to end", 20)
        return asked

    broken = wait_until(lambda: Worker.objects.filter(state="broken").first(), "the worker to say so", 20)
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
    wait_until(lambda: Worker.objects.filter(state="ready").exists(), "the model to be loaded", 20)
    assert client.get("/readyz", headers={"Host": "localhost"}).json()["checks"]["worker"]["ok"]
    assert ask().state == "complete"
