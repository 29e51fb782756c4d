"""What came of training is kept whole or not at all, belongs to one workspace, and goes with it."""

from __future__ import annotations

import io
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.db import transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from inference import model_services
from inference.engine.adapters import read_adapter
from inference.engine.config_folder import config_from_folder
from inference.models import Generation, ServedModel
from inference.services import start_generation
from tests.inference.lora_adapters import save_adapter
from tests.inference.tiny_models import save_model
from webapp.accounts.models import Workspace
from webapp.core.errors import UserError

NAME = "ft:tiny:acme:support:0123abcd"


@pytest.fixture(autouse=True)
def home(settings: LazySettings, tmp_path: Path) -> Path:
    settings.FLYWHEEL_HOME = tmp_path / "home"
    settings.MODELS_DIR = tmp_path / "home" / "models"
    return tmp_path / "home"


@pytest.fixture
def base(home: Path, db: None) -> ServedModel:
    save_model(home / "models" / "tiny")
    return model_services.register_model(name="tiny", path=home / "models" / "tiny")


@pytest.fixture
def source(base: ServedModel, tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "job", config_from_folder(base.location))


def kept(home: Path) -> list[str]:
    """Everything that training left, half-made folders too."""
    return [path.name for kind in ("adapters", "trained") for path in (home / kind).glob("*")]


def test_an_adapter_is_named_by_the_digest_the_engine_will_find(
    base: ServedModel, source: Path, workspace: Workspace
) -> None:
    model = model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    read = read_adapter(model.location, config_from_folder(base.location), torch.float32, 64)
    assert model.digest == read.digest
    assert (model.workspace, model.base, model.context_length) == (workspace, base, base.context_length)


def test_an_adapter_outlives_the_folder_it_came_from(
    base: ServedModel, source: Path, workspace: Workspace, home: Path
) -> None:
    (source / "optimizer.safetensors").write_bytes(b"not needed to answer")
    model = model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    for file in source.iterdir():
        file.unlink()
    assert model.location.parent == home / "adapters"
    assert {file.name for file in model.location.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_an_adapter_for_another_model_is_refused_and_leaves_nothing(
    base: ServedModel, tmp_path: Path, workspace: Workspace, home: Path
) -> None:
    other = replace(config_from_folder(base.location), hidden_size=64)
    source = save_adapter(tmp_path / "job", other)
    with pytest.raises(UserError, match="this model and rank ask for") as caught:
        model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    assert caught.value.code == "model_unusable"
    assert kept(home) == []
    assert not ServedModel.objects.filter(name=NAME).exists()


def test_an_adapter_cut_short_or_pickled_is_refused(
    base: ServedModel, source: Path, workspace: Workspace, home: Path
) -> None:
    weights = source / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    weights.rename(source / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    assert kept(home) == []


def test_a_name_that_is_taken_leaves_nothing_behind(
    base: ServedModel, source: Path, workspace: Workspace, home: Path
) -> None:
    model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    with pytest.raises(UserError, match="already"):
        model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    assert len(kept(home)) == 1


def test_a_row_that_cannot_be_written_takes_its_files_with_it(
    base: ServedModel, source: Path, workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no database")

    monkeypatch.setattr(ServedModel, "save", fail)
    with pytest.raises(RuntimeError):
        model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    assert kept(home) == []


def test_files_of_a_transaction_that_was_rolled_back_are_swept_away(
    base: ServedModel, source: Path, workspace: Workspace, home: Path
) -> None:
    kept_model = model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    with transaction.atomic():
        model_services.add_adapter(workspace=workspace, base=base, name="ft:lost", source=source)
        transaction.set_rollback(True)
    [orphan] = set(kept(home)) - {kept_model.location.name}
    model_services.remove_orphans()
    assert orphan in kept(home)  # its transaction might be going on
    for name in kept(home):
        long_ago = time.time() - 2 * 3600
        os.utime(home / "adapters" / name, (long_ago, long_ago))
    model_services.remove_orphans()
    assert kept(home) == [kept_model.location.name]


def test_a_whole_model_is_kept_without_a_base(
    base: ServedModel, workspace: Workspace, tmp_path: Path
) -> None:
    save_model(tmp_path / "job")
    model = model_services.add_workspace_model(workspace=workspace, name=NAME, source=tmp_path / "job")
    assert model.base is None
    assert model.digest == base.digest
    assert (model.location / "tokenizer.json").is_file()


def test_a_workspaces_model_cannot_become_everybodys(
    base: ServedModel, workspace: Workspace, tmp_path: Path
) -> None:
    save_model(tmp_path / "job")
    model_services.add_workspace_model(workspace=workspace, name=NAME, source=tmp_path / "job")
    with pytest.raises(UserError, match="workspace's own"):
        model_services.set_default_model(name=NAME)


def test_an_adapter_for_another_workspaces_model_is_refused(
    source: Path, workspace: Workspace, elsewhere: Workspace, tmp_path: Path
) -> None:
    save_model(tmp_path / "theirs")
    theirs = model_services.add_workspace_model(
        workspace=elsewhere, name="ft:theirs", source=tmp_path / "theirs"
    )
    with pytest.raises(UserError, match="no model that an adapter could be for"):
        model_services.add_adapter(workspace=workspace, base=theirs, name=NAME, source=source)


def test_a_workspace_takes_its_models_adapters_replies_and_files_with_it(
    base: ServedModel,
    source: Path,
    workspace: Workspace,
    tmp_path: Path,
    home: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    save_model(tmp_path / "whole")
    whole = model_services.add_workspace_model(
        workspace=workspace, name="ft:whole", source=tmp_path / "whole"
    )
    model_services.add_adapter(workspace=workspace, base=whole, name="ft:on-whole", source=source)
    adapter = model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    start_generation(workspace=workspace, model=adapter, messages=[{"role": "user", "content": "Hi"}])
    with django_capture_on_commit_callbacks(execute=True):
        workspace.delete()
    assert kept(home) == []
    assert list(ServedModel.objects.all()) == [base]


def test_a_model_that_is_writing_is_not_removed(
    base: ServedModel, source: Path, workspace: Workspace, home: Path
) -> None:
    model = model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    start_generation(workspace=workspace, model=model, messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(UserError, match="is writing 1 replies") as caught:
        model_services.remove_model(name=model.name)
    assert caught.value.code == "model_in_use"
    assert len(kept(home)) == 1


def test_a_removed_model_loses_its_files_and_keeps_its_name_on_replies(
    base: ServedModel,
    source: Path,
    workspace: Workspace,
    home: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    model = model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    said = start_generation(workspace=workspace, model=model, messages=[{"role": "user", "content": "Hi"}])
    Generation.objects.update(state="complete")
    with django_capture_on_commit_callbacks(execute=True):
        model_services.remove_model(name=model.name)
    assert kept(home) == []
    said.refresh_from_db()
    assert said.model.name == NAME
    assert said.model.removed_at is not None
    with pytest.raises(UserError, match="everybody's"):
        model_services.remove_model(name=base.name)


def test_a_model_is_removed_with_its_checkpoints(
    base: ServedModel,
    source: Path,
    workspace: Workspace,
    home: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    for name in (f"{NAME}:ckpt-step-8", f"{NAME}4:ckpt-step-8"):
        model_services.add_adapter(
            workspace=workspace, base=base, name=name, source=source, is_checkpoint=True
        )
    with django_capture_on_commit_callbacks(execute=True):
        model_services.remove_model(name=NAME)
    left = ServedModel.objects.filter(workspace=workspace, removed_at=None)
    assert [model.name for model in left] == [f"{NAME}4:ckpt-step-8"]
    assert len(kept(home)) == 1


def test_a_model_with_adapters_is_not_removed(source: Path, workspace: Workspace, tmp_path: Path) -> None:
    save_model(tmp_path / "whole")
    whole = model_services.add_workspace_model(
        workspace=workspace, name="ft:whole", source=tmp_path / "whole"
    )
    model_services.add_adapter(workspace=workspace, base=whole, name=NAME, source=source)
    with pytest.raises(UserError, match="is made for it"):
        model_services.remove_model(name=whole.name)


def test_the_models_command_lists_them_apart_and_removes_them(
    base: ServedModel, source: Path, workspace: Workspace, tmp_path: Path, home: Path
) -> None:
    def models(*arguments: str) -> str:
        output = io.StringIO()
        call_command("models", *arguments, stdout=output)
        return output.getvalue()

    save_model(tmp_path / "whole")
    model_services.add_workspace_model(workspace=workspace, name="ft:whole", source=tmp_path / "whole")
    model_services.add_adapter(workspace=workspace, base=base, name=NAME, source=source)
    installed, of_workspaces = models("list").split("\nCatalog")[0].split("Of workspaces:")
    assert "tiny" in installed
    assert NAME not in installed
    assert f"{NAME}  " in of_workspaces
    assert "adapter to tiny, of Acme" in of_workspaces
    assert ", a whole model, of Acme" in of_workspaces
    assert "is removed" in models("remove", NAME)
    assert NAME not in models("list")
    with pytest.raises(CommandError, match="No model is called"):
        models("remove", NAME)
    with pytest.raises(CommandError, match="everybody's"):
        models("remove", "tiny")
