"""An engine on a tiny model, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from inference.engine.engine import TorchEngine
from inference.engine.loaded_model import LoadedModel, load_model
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


@pytest.fixture(scope="session")
def loaded_demo(demo_model_folder: Path) -> Callable[[str], LoadedModel]:
    """The demo model in each precision, loaded once for all modules: that takes seconds, and no engine changes it."""
    return cache(lambda dtype: load_model(demo_model_folder, dtype=dtype, device="auto"))


@pytest.fixture
def engine(tiny_folder: Path) -> Iterator[TorchEngine]:
    engine = load_engine(tiny_folder, dtype="fp32", max_running=8, max_waiting=16)
    yield engine
    engine.close()
