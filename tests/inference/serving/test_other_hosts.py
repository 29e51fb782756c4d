"""Workers on hosts that have no model: each is another $FLYWHEEL_HOME, and a storage is all they share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from inference import model_services, services
from inference.engine.config_folder import config_from_folder
from inference.formats.digest import adapted_digest
from inference.local_models import forget_removed
from inference.models import ServedModel, Worker
from inference.worker import WorkerHost
from tests.inference.lora_adapters import save_adapter
from tests.inference.serving.conftest import ended
from tests.inference.serving.test_other_models import alone, run
from tests.inference.tiny_models import save_model, tiny_config
from tests.services import wait_until
from webapp.accounts.models import Workspace
from webapp.core import shared_storage
from webapp.core.errors import UserError
from webapp.env import Env

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "other"
    save_model(folder, tiny_config(num_hidden_layers=1))
    return folder


@pytest.fixture(autouse=True)
def shared(settings: Any, tmp_path: Path, _site: None) -> Path:
    """The folder that the hosts share. What is registered is so on the first of them."""
    environment = Env({"STORAGE_URL": f"file://{tmp_path}/shared"})
    settings.STORAGES = settings.STORAGES | shared_storage.configuration(environment)
    settings.FLYWHEEL_HOME = tmp_path / "first"
    return tmp_path / "shared" / "models"


@pytest.fixture
def elsewhere(settings: Any, tmp_path: Path) -> Callable[[], Path]:
    """From here on this is the other host; its home."""

    def there() -> Path:
        settings.FLYWHEEL_HOME = tmp_path / "second"
        return tmp_path / "second"

    return there


@pytest.fixture
def start(base: ServedModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    hosts: list[WorkerHost] = []

    def start_host(state: str = Worker.State.READY) -> WorkerHost:
        monkeypatch.setattr("inference.lease.socket.gethostname", f"host{len(hosts)}".__str__)
        host = WorkerHost(give_up=lambda: None)
        hosts.append(host)
        host.start()
        assert host.loaded.wait(20)
        assert host.lease.worker is not None
        assert host.lease.worker.state == state, host.lease.worker.error
        return host

    yield start_host
    for host in hosts:
        host.stop()


@pytest.fixture
def other(other_folder: Path) -> ServedModel:
    return model_services.register_model(name="other", path=other_folder)


@pytest.fixture
def adapter(base: ServedModel, tiny_folder: Path, workspace: Workspace, tmp_path: Path) -> ServedModel:
    source = save_adapter(tmp_path / "job", config_from_folder(tiny_folder), seed=7)
    name = "ft:tiny:acme:support:01234567"
    return model_services.add_adapter(workspace=workspace, base=base, name=name, source=source)


def cached(home: Path) -> set[str]:
    folder = home / "cache" / "models"
    return {each.name for each in folder.iterdir() if each.name != "locks"} if folder.is_dir() else set()


def damage(folder: Path) -> None:
    file = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


# --- Fetched ------------------------------------------------------------------------------------------------
def test_a_host_without_a_model_answers_as_the_one_that_has_it(
    base: ServedModel, other: ServedModel, tiny_folder: Path, adapter: ServedModel, start: Any, ask: Any,
    elsewhere: Any, tmp_path: Path,
) -> None:  # fmt: skip
    """With the default model, an adapter to it and another model, none of which was ever there."""
    assert not (tmp_path / "first" / "adapters").exists() or not any(
        (tmp_path / "first" / "adapters").iterdir()
    )
    home = elsewhere()
    assert cached(home) == set()
    host, asked = start(), [ask(base), ask(adapter), ask(other)]
    run(host, *asked)
    texts = [ended(generation).text for generation in asked]
    assert texts == [alone(base), alone(base, adapter.location), alone(other)]
    assert len(set(texts)) == 3
    assert asked[1].model_digest == adapted_digest(base.digest, adapter.digest)
    assert cached(home) == {base.manifest, adapter.manifest, other.manifest}


def test_a_default_model_that_was_changed_in_the_storage_is_said_and_comes_once_it_is_mended(
    base: ServedModel, tiny_folder: Path, shared: Path, start: Any, ask: Any, elsewhere: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("inference.engine_thread._RELOAD_SECONDS", 0.1)
    damage(shared / base.manifest)
    home = elsewhere()
    host = start(state=Worker.State.BROKEN)
    said = (
        f"models/{base.manifest}/model.safetensors in the shared storage is not the file that was put there"
    )
    assert said in host.lease.worker.error
    assert cached(home) == set()
    (shared / f"{base.manifest}.json").unlink()
    assert model_services.register_model(name="tiny", path=tiny_folder).manifest == base.manifest
    wait_until(lambda: host.lease.worker.state == Worker.State.READY, "the model to be loaded")
    generation = ask(base)
    run(host, generation)
    assert ended(generation).state == "complete"


def test_an_adapter_that_was_changed_in_the_storage_fails_its_reply_and_no_other(
    base: ServedModel, adapter: ServedModel, shared: Path, start: Any, ask: Any, elsewhere: Any
) -> None:
    home, asked = elsewhere(), [ask(adapter), ask(base)]
    damage(shared / adapter.manifest)
    run(start(), *asked)
    failed, answered = (ended(generation) for generation in asked)
    assert (failed.state, failed.error_code) == ("failed", "model_unavailable")
    assert failed.error_message.startswith(
        f"{adapter.name} cannot be used. models/{adapter.manifest}/adapter_model"
    )
    assert answered.state == "complete"
    assert cached(home) == {base.manifest}


def test_a_model_larger_than_the_cache_is_refused_and_one_that_fits_makes_room(
    base: ServedModel,
    other: ServedModel,
    start: Any,
    ask: Any,
    elsewhere: Any,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = elsewhere()
    host = start()
    monkeypatch.setattr("inference.model_storage.cache", _limited(base.size_bytes + 100_000))
    generation = ask(other)
    run(host, generation)
    assert "are in use: raise MODEL_CACHE_GB." in ended(generation).error_message
    assert cached(home) == {base.manifest}  # its engine holds it
    host.stop()
    host._engine._engines.default.files.release()  # as the end of its process does
    settings.INFERENCE_MODELS = ["other"]
    start()
    assert cached(home) == {other.manifest}


def _limited(size: int) -> Callable[[], Any]:
    from inference import model_storage

    usual = model_storage.cache

    def limited() -> Any:
        cache = usual()
        cache._limit = size
        return cache

    return limited


# --- Gone ---------------------------------------------------------------------------------------------------
def test_what_is_removed_leaves_the_storage_at_once_and_other_hosts_soon(
    base: ServedModel, adapter: ServedModel, shared: Path, start: Any, ask: Any, elsewhere: Any
) -> None:
    home, generation = elsewhere(), ask(adapter)
    host = start()
    run(host, generation)
    ended(generation)
    model_services.remove_model(name=adapter.name)
    assert {path.name for path in shared.iterdir()} == {base.manifest, f"{base.manifest}.json"}
    forget_removed()  # a worker does this now and then
    assert cached(home) == {base.manifest}


def test_with_its_workspace_a_model_leaves_the_storage(
    base: ServedModel, adapter: ServedModel, workspace: Workspace, shared: Path
) -> None:
    workspace.delete()
    assert not (shared / adapter.manifest).exists()
    assert not (shared / f"{adapter.manifest}.json").exists()


def test_a_site_that_gets_a_storage_publishes_what_it_has(
    base: ServedModel,
    workspace: Workspace,
    settings: Any,
    start: Any,
    ask: Any,
    elsewhere: Any,
    tmp_path: Path,
) -> None:
    first, stored = settings.FLYWHEEL_HOME, settings.STORAGES
    settings.MODELS_DIR = first / "models"
    save_model(settings.MODELS_DIR / "own", tiny_config(num_hidden_layers=1))
    settings.STORAGES = {name: each for name, each in stored.items() if name != "shared"}
    model = model_services.register_model(name="own", path=settings.MODELS_DIR / "own")
    source = save_adapter(tmp_path / "job", config_from_folder(settings.MODELS_DIR / "own"), seed=7)
    trained = model_services.add_adapter(workspace=workspace, base=model, name="ft:own:1", source=source)
    assert trained.original.is_dir()
    with pytest.raises(UserError, match="There is no shared storage"):
        model_services.publish_models()
    settings.STORAGES, settings.INFERENCE_MODELS = stored, ["own"]
    settings.MODELS_DIR = elsewhere() / "models"
    host = start(state=Worker.State.BROKEN)
    assert host.lease.worker.error == (
        "own is not in the shared storage: run `manage.py models publish` on the host that has it."
    )
    host.stop()
    settings.FLYWHEEL_HOME, settings.MODELS_DIR = first, first / "models"
    said = io.StringIO()
    call_command("models", "publish", stdout=said)
    assert f"are yours to remove: {settings.MODELS_DIR / 'own'}" in said.getvalue()
    # What came of training is in one place, as where there was a storage from the first.
    assert "ft:own:1 is in the shared storage" in said.getvalue()
    assert not trained.original.exists()
    assert model.original.is_dir()
    settings.MODELS_DIR = elsewhere() / "models"
    trained.refresh_from_db()
    generation = ask(trained)
    run(start(), generation)
    assert ended(generation).state == "complete"


# --- Told what to serve -------------------------------------------------------------------------------------
def test_a_worker_serves_what_it_is_told_and_keeps_the_first_of_it(
    base: ServedModel, other: ServedModel, adapter: ServedModel, start: Any, ask: Any, settings: Any
) -> None:
    settings.INFERENCE_MODELS = ["other"]
    host = start()
    assert host.lease.worker.model == "other"
    assert host.wanted == [other.pk]
    with pytest.raises(UserError, match="No worker of this site serves support now") as refused:
        ask(adapter)
    assert (refused.value.code, refused.value.status) == ("model_not_served", 503)
    settings.INFERENCE_MODELS = ["tiny", "other"]
    second = start()
    assert second.lease.worker.model == "tiny"
    for_tiny, for_other = ask(adapter), ask(other)
    run(host, for_tiny, for_other)  # the first of these tasks came the wrong way
    assert ended(for_other).state == "complete"
    for_tiny.refresh_from_db()
    assert for_tiny.state == "queued"
    run(second, for_tiny)
    assert ended(for_tiny).state == "complete"


def test_a_worker_whose_model_is_broken_leaves_replies_to_those_who_can(
    base: ServedModel, shared: Path, start: Any, elsewhere: Any
) -> None:
    good = start()
    damage(shared / base.manifest)
    elsewhere()
    broken = start(state=Worker.State.BROKEN)
    assert (good.wanted, broken.wanted) == ([base.pk], [])
    good.stop()
    assert broken.wanted == [base.pk]  # to say why


def test_a_model_that_is_restarted_is_waited_for_and_not_refused(
    base: ServedModel, other: ServedModel, start: Any, ask: Any, settings: Any
) -> None:
    settings.INFERENCE_MODELS = ["tiny"]
    start()
    settings.INFERENCE_MODELS = ["other"]
    host = start()
    host.stop()
    ask(other)
    Worker.objects.filter(model="other").delete()
    with pytest.raises(UserError, match="No worker of this site serves other now"):
        ask(other)


@pytest.mark.parametrize(
    ("names", "most", "said"),
    [
        (["tiny", "no-such"], 3, "INFERENCE_MODELS names 'no-such', but no model is called so"),
        (["ft:tiny:acme:support:01234567"], 3, "which is an adapter: name its base, tiny."),
        (["tiny", "other"], 1, "INFERENCE_MODELS names 2 models, but INFERENCE_MAX_MODELS is 1"),
    ],
)  # fmt: skip
def test_wrong_names_are_one_sentence(
    names: list[str], most: int, said: str, adapter: ServedModel, other: ServedModel, settings: Any
) -> None:
    from inference import serving

    settings.INFERENCE_MODELS, settings.INFERENCE_MAX_MODELS = names, most
    assert said in serving.wrong_names()


def test_the_queues_are_those_of_whole_models(
    adapter: ServedModel, base: ServedModel, other: ServedModel
) -> None:
    assert services.queues() == ["generate", f"generate.{base.pk}", f"generate.{other.pk}"]
