"""A shared folder that is not mounted is an empty one that takes files: it gets none, and everybody is told why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference import model_services
from inference.engine.config_folder import config_from_folder
from inference.models import ServedModel
from tests.inference.lora_adapters import save_adapter
from tests.inference.tiny_models import save_model, tiny_config
from webapp.accounts.models import Workspace
from webapp.core import shared_storage
from webapp.core.errors import UserError
from webapp.env import Env
from webapp.ops.doctor import services as doctor
from webapp.ops.doctor.finding import Level

pytestmark = pytest.mark.django_db
NAME = "ft:tiny:acme:support:0123abcd"


@pytest.fixture(autouse=True)
def mounted(settings: Any, tmp_path: Path) -> Path:
    """The storage, mounted and empty."""
    settings.FLYWHEEL_HOME = tmp_path / "home"
    settings.MODELS_DIR = tmp_path / "home" / "models"
    environment = Env({"STORAGE_URL": f"file://{tmp_path}/shared"})
    settings.STORAGES = settings.STORAGES | shared_storage.configuration(environment)
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture
def base(tmp_path: Path) -> ServedModel:
    """The first model that is put there."""
    save_model(tmp_path / "home" / "models" / "tiny")
    return model_services.register_model(name="tiny", path=tmp_path / "home" / "models" / "tiny")


@pytest.fixture
def learn(base: ServedModel, workspace: Workspace, tmp_path: Path) -> Callable[[], ServedModel]:
    """An adapter comes of training."""
    config = config_from_folder(tmp_path / "home" / "models" / "tiny")
    source = save_adapter(tmp_path / "job", config)
    with model_services.local_models.hold(base):  # this host has fetched it by now
        pass
    return lambda: model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)


@pytest.fixture
def unmounted(mounted: Path, learn: object) -> Path:
    """What is there instead."""
    mounted.rename(mounted.with_name("away"))
    mounted.mkdir()
    return mounted


def test_the_first_model_marks_the_storage_and_nothing_before_it(
    mounted: Path, request: pytest.FixtureRequest
) -> None:
    for has_model in (False, True):
        [finding] = doctor.storage()
        assert finding.level is Level.OK
        assert (mounted / shared_storage.MARKER).is_file() is has_model
        request.getfixturevalue("base")


def test_nothing_is_put_into_what_is_there_instead(
    unmounted: Path, learn: Callable[[], ServedModel], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="it is not mounted on this host") as refused:
        learn()
    assert refused.value.code == "storage_not_mounted"
    save_model(tmp_path / "other", tiny_config(num_hidden_layers=1))
    with pytest.raises(UserError) as refused:
        model_services.register_model(name="other", path=tmp_path / "other")
    assert refused.value.code == "storage_not_mounted"
    [finding] = doctor.storage()
    assert (finding.level, finding.sentence) == (Level.PROBLEM, refused.value.message)
    assert f"{unmounted}/.flywheel-storage" in finding.advice
    assert list(unmounted.iterdir()) == []
    unmounted.rmdir()
    unmounted.with_name("away").rename(unmounted)
    assert learn().is_stored


def test_a_storage_that_is_older_than_the_mark_gets_one(
    mounted: Path, learn: Callable[[], ServedModel]
) -> None:
    (mounted / shared_storage.MARKER).unlink()
    learn()
    assert (mounted / shared_storage.MARKER).is_file()


def test_a_new_storage_is_one_that_somebody_has_marked(
    unmounted: Path, learn: Callable[[], ServedModel]
) -> None:
    (unmounted / shared_storage.MARKER).touch()
    assert learn().is_stored
