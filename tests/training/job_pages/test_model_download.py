"""What a fine-tune made can be taken away by its workspace's admins, whole, wherever it is kept."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from inference import model_storage
from inference.models import ServedModel
from tests.training.data_pages.conftest import LogIn
from training.models import Job
from webapp.accounts.models import User, Workspace
from webapp.core import shared_storage
from webapp.env import Env

pytestmark = pytest.mark.django_db
# More than one piece, and what is in a model's folder.
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 5000}


@pytest.fixture
def keep(job: Job, tmp_path: Path) -> Callable[[], None]:
    """As the worker does that has learnt it."""

    def keep() -> None:
        made = tmp_path / "made"
        made.mkdir()
        for name, content in FILES.items():
            (made / name).write_bytes(content)
        files = sorted(made.iterdir())
        kept = model_storage.keep(model_storage.ADAPTERS, "mine", files, lambda folder: None)
        model = ServedModel.objects.create(
            name="ft:tiny:acme:support:1", path=kept.path, manifest=kept.manifest, digest="1", architecture="llama",
            context_length=1, parameters=1, size_bytes=sum(map(len, FILES.values())), base=job.base,
            workspace=job.workspace,
        )  # fmt: skip
        Job.objects.filter(pk=job.pk).update(state=Job.State.SUCCEEDED, model=model)

    return keep


@pytest.fixture(params=["here", "shared"])
def kept(
    keep: Callable[[], None], settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if request.param == "shared":
        (tmp_path / "shared").mkdir()
        settings.STORAGES = settings.STORAGES | shared_storage.configuration(
            Env({"STORAGE_URL": f"file://{tmp_path}/shared"})
        )
    keep()


@pytest.mark.usefixtures("kept")
def test_an_admin_downloads_the_adapter_whole_and_is_told_how_long_it_is(
    job: Job, alice: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    page = client.get(f"/fine-tunes/{job.pk}/").content.decode()
    assert f'href="/fine-tunes/{job.pk}/model.zip"' in page
    assert "Download the adapter (1.3 MB)" in page
    answer = client.get(f"/fine-tunes/{job.pk}/model.zip")
    content = b"".join(answer)
    assert int(answer.headers["Content-Length"]) == len(content)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="adapter-{job.pk.hex[:8]}.zip"'
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {f"adapter-{job.pk.hex[:8]}/{name}": data for name, data in FILES.items()}


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("who", ["bob", "charlie"])
def test_members_and_outsiders_cannot_take_it(
    who: str, job: Job, elsewhere: Workspace, request: pytest.FixtureRequest, logged_in: LogIn
) -> None:
    client = logged_in(request.getfixturevalue(who))
    assert client.get(f"/fine-tunes/{job.pk}/model.zip").status_code == 404


def test_what_was_not_learnt_yet_or_was_removed_is_not_there(
    job: Job, keep: Callable[[], None], alice: User, logged_in: LogIn
) -> None:
    client = logged_in(alice)
    assert client.get(f"/fine-tunes/{job.pk}/model.zip").status_code == 404
    keep()
    ServedModel.objects.filter(workspace=job.workspace).update(removed_at=job.created_at)
    assert client.get(f"/fine-tunes/{job.pk}/model.zip").status_code == 404
    assert "model.zip" not in client.get(f"/fine-tunes/{job.pk}/").content.decode()


@pytest.mark.usefixtures("kept")
def test_a_model_whose_files_cannot_be_read_is_a_sentence(
    job: Job, alice: User, logged_in: LogIn, tmp_path: Path
) -> None:
    for place in ("adapters", "shared"):
        if (tmp_path / place).is_dir():
            (tmp_path / place).rename(tmp_path / f"{place}, away")
    answer = logged_in(alice).get(f"/fine-tunes/{job.pk}/model.zip")
    assert answer.status_code == 503
    assert "The files of this model cannot be read right now." in answer.content.decode()


def test_a_link_that_took_a_files_place_leads_nowhere(
    job: Job, keep: Callable[[], None], alice: User, logged_in: LogIn, tmp_path: Path
) -> None:
    keep()
    (file,) = (tmp_path / "adapters").glob("*/adapter_config.json")
    file.unlink()
    file.symlink_to(tmp_path / "made" / "adapter_config.json")
    answer = logged_in(alice).get(f"/fine-tunes/{job.pk}/model.zip")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        b"".join(answer)
