"""An engine on a tiny model, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference.engine.engine import TorchEngine
from inference.engine.loader import load_engine
from tests.inference.tiny_models import save_model


@pytest.fixture(autouse=True)
def _one_thread_for_tiny_models(request: pytest.FixtureRequest) -> Iterator[None]:
    """Waking a second thread costs more than a tiny model's arithmetic."""
    before = torch.get_num_threads()
    if not {"demo_model_folder", "gemma_model_file"} & {*request.fixturenames}:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_model(folder)
    return folder


@pytest.fixture
def engine(tiny_folder: Path) -> Iterator[TorchEngine]:
    engine = load_engine(tiny_folder, dtype="fp32", max_running=8, max_waiting=16)
    yield engine
    engine.close()
