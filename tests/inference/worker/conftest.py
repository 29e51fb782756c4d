"""A worker with a scripted engine and a short lease, a model's row, a way to ask."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inference import services
from inference.models import Generation, ServedModel
from inference.worker import WorkerHost
from tests.inference.worker.one_word import load
from webapp.accounts.models import Workspace


@pytest.fixture(autouse=True)
def _quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.INFERENCE_ENGINE = f"{load.__module__}.load"
    settings.INFERENCE_LEASE_SECONDS = 1
    settings.STOP_GRACE_SECONDS = 0


@pytest.fixture
def start(model: ServedModel) -> Iterator[Callable[[], WorkerHost]]:
    hosts: list[WorkerHost] = []

    def start_host() -> WorkerHost:
        host = WorkerHost(give_up=lambda: setattr(host, "gave_up", True))
        hosts.append(host)
        host.start()
        return host

    yield start_host
    for host in hosts:
        host.stop()


@pytest.fixture
def ask(workspace: Workspace, model: ServedModel) -> Callable[[], Generation]:
    return lambda: services.start_generation(
        workspace=workspace, model=model, messages=[{"role": "user", "content": "Hello"}]
    )


@pytest.fixture
def pid_that_is_free() -> int:
    """Of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
