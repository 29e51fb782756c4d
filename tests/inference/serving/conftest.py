"""What tests of models on workers share: the real engine with tiny models, at a pace, and a site's rows for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference import model_services, services
from inference.engine.config_folder import config_from_folder
from inference.engine.engine import TorchEngine
from inference.engine.interface import Request, StepOutput
from inference.engine.loader import load_engine
from inference.models import Generation, ServedModel
from inference.parameters import SamplingParams
from inference.worker import WorkerHost
from tests.inference.engine.running import Answer, collect
from tests.inference.lora_adapters import save_adapter
from tests.inference.tiny_models import save_model
from tests.services import wait_until
from webapp.accounts.models import Workspace

ENGINES: list[TorchEngine] = []  # of the workers of a test
PAUSE = {"seconds": 0.0}  # between steps
MESSAGES = [{"role": "user", "content": "What does the fox do until the morning comes?"}]
PARAMS = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=900, ignore_eos=True)


class PacedEngine(TorchEngine):
    def step(self) -> list[StepOutput]:
        time.sleep(PAUSE["seconds"])
        return super().step()


def load(model: ServedModel, *, beside: object = None) -> TorchEngine:
    engine = load_engine(model.location, dtype="fp32", max_running=8)
    engine.__class__ = PacedEngine
    ENGINES.append(engine)
    return engine


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    save_model(folder)
    return folder


@pytest.fixture(autouse=True)
def _site(settings: Any, tmp_path: Path) -> Iterator[None]:
    settings.INFERENCE_ENGINE = f"{load.__module__}.load"
    settings.INFERENCE_LEASE_SECONDS = 5
    settings.STOP_GRACE_SECONDS = 0
    settings.FLYWHEEL_HOME = tmp_path
    PAUSE["seconds"] = 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    while ENGINES:
        ENGINES.pop().close()


@pytest.fixture
def base(tiny_folder: Path, db: None) -> ServedModel:
    return model_services.register_model(name="tiny", path=tiny_folder)


@pytest.fixture
def adapter(base: ServedModel, workspace: Workspace, tmp_path: Path) -> Callable[..., ServedModel]:
    """Adds one with its own random weights, as a job that has succeeded would.

    Of these seeds' answers no token is nearly as likely as another, so that rounding chooses none.
    """

    def add(name: str, seed: int = 7) -> ServedModel:
        source = save_adapter(tmp_path / "jobs" / name, config_from_folder(base.location), seed=seed)
        return model_services.add_adapter(
            workspace=workspace, base=base, name=f"ft:tiny:acme:{name}:01234567", source=source
        )

    return add


@pytest.fixture
def start(base: ServedModel) -> Iterator[Callable[[], WorkerHost]]:
    hosts: list[WorkerHost] = []

    def start_host() -> WorkerHost:
        host = WorkerHost(give_up=lambda: None)
        hosts.append(host)
        host.start()
        assert host.loaded.wait(20)
        return host

    yield start_host
    for host in hosts:
        host.stop()


@pytest.fixture
def ask(workspace: Workspace) -> Callable[..., Generation]:
    def asking(model: ServedModel, params: SamplingParams = PARAMS) -> Generation:
        return services.start_generation(workspace=workspace, model=model, messages=MESSAGES, params=params)

    return asking


def ended(generation: Generation) -> Generation:
    def row() -> Generation | None:
        generation.refresh_from_db()
        return generation if generation.is_finished else None

    return wait_until(row, "the generation to end", 30)


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> Iterator[TorchEngine]:
    engine = load_engine(tiny_folder, dtype="fp32")
    yield engine
    engine.close()


@pytest.fixture
def alone(reference: TorchEngine) -> Callable[..., str]:
    """What an engine by itself answers with a model."""

    def answering(model: ServedModel, params: SamplingParams = PARAMS) -> str:
        name = model.name if model.base is not None else ""
        if name:
            reference.load_adapter(name, model.location)
        answer = Answer()
        reference.submit(Request(id="one", messages=MESSAGES, sampling=params, adapter=name))
        collect(reference, {"one": answer})
        return answer.text.replace("\x00", "\ufffd")  # no row holds a NUL

    return answering
