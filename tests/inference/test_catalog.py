"""Base models: what the catalog promises, how they get here, and what `manage.py models` does with them."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from io import StringIO
from pathlib import Path
from typing import Any

import gguf
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from pytest_django import Settings

from inference import catalog, installation
from inference.catalog import CATALOG, DEMO, CatalogModel, Fit, HubSource, WheelSource
from inference.formats import digest
from inference.installation import InstallError, inspect_model, install
from inference.models import ServedModel
from tests.inference.tiny_models import save_gguf, save_model, tiny_config
from tests.migrated import migrated
from tests.services import minimal_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def models_dir(settings: Settings, tmp_path: Path) -> Path:
    settings.FLYWHEEL_HOME = tmp_path / "home"
    settings.MODELS_DIR = tmp_path / "home" / "models"
    return settings.MODELS_DIR


def models(*arguments: str) -> str:
    output = StringIO()
    call_command("models", *arguments, stdout=output)
    return output.getvalue()


def wheel_model(folder: Path, name: str = "tiny") -> CatalogModel:
    """A catalog entry whose wheel lies in `folder`, as FLYWHEEL_WHEEL_CACHE has it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "tiny.gguf"
    save_gguf(model, gguf.GGMLQuantizationType.Q8_0)
    wheel = folder / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(model, "tiny/tiny.gguf")
    source = WheelSource("tiny==1", wheel.name, sha256(wheel), "tiny/tiny.gguf", sha256(model))
    model.unlink()
    return CatalogModel(name, "Tiny", source, "Apache-2.0", 1, 1, 512, {"temperature": 0.5})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny(tmp_path: Path, settings: Settings) -> CatalogModel:
    settings.WHEEL_CACHE = tmp_path / "wheels"
    return wheel_model(tmp_path / "wheels")


# --- The catalog ----------------------------------------------------------------------------------------------
def test_every_entry_can_be_named_and_found() -> None:
    assert CATALOG[0] is DEMO
    for model in CATALOG:
        assert catalog.is_valid_name(model.name)
        assert catalog.find(model.name) is model
        assert model.licence
        assert model.title
    assert len({model.name for model in CATALOG}) == len(CATALOG)


def test_the_catalog_says_what_suits_a_machine() -> None:
    largest = max(CATALOG, key=lambda model: model.parameters)
    assert DEMO.suits(2 * 10**9, 2) is Fit.WELL
    assert DEMO.suits(10**9, 64) is Fit.TOO_LARGE
    assert largest.suits(8 * 10**9, 64) is Fit.TOO_LARGE
    assert largest.suits(64 * 10**9, 2) is Fit.SLOW
    assert largest.suits(64 * 10**9, 64) is Fit.WELL


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "a..b", "/etc", "a\\b", ".hidden", "a b", "a\n", "x" * 200]
)
def test_names_that_lead_elsewhere_are_refused(name: str, tiny: CatalogModel, tmp_path: Path) -> None:
    assert not catalog.is_valid_name(name)
    moved = CatalogModel(name, "", tiny.source, "", 1, 1, 1)
    with pytest.raises(InstallError, match="cannot be a model's name"):
        install(moved, tmp_path / "models", progress=print)
    assert not (tmp_path / "models").exists()


def test_the_catalog_is_known_without_torch_or_tokenizers() -> None:
    code = (
        "import sys\n"
        "for name in 'torch numpy tokenizers sentencepiece gguf safetensors huggingface_hub jinja2'.split():\n"
        "    sys.modules[name] = None\n"
        "import django; django.setup()\n"
        "import inference.catalog, inference.installation, inference.model_services, inference.engine.interface\n"
    )
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "webapp.settings"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


# --- Getting them here ----------------------------------------------------------------------------------------
def test_a_model_is_there_whole_or_not_at_all(tiny: CatalogModel, tmp_path: Path) -> None:
    said: list[str] = []
    folder = install(tiny, tmp_path / "models", progress=said.append)
    assert sorted(file.name for file in folder.iterdir()) == ["generation_config.json", "tiny.gguf"]
    assert said, "a slow step says something"
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == ["tiny"], (
        "nothing else is left behind"
    )


def test_a_model_that_is_there_is_not_read_again_unless_asked_to(
    tiny: CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"progress": print, "digest_cache": tmp_path / "cache"}
    folder = install(tiny, tmp_path / "models", **options)
    install(tiny, tmp_path / "models", **options)
    read: list[Any] = []
    real = hashlib.file_digest
    monkeypatch.setattr(digest.hashlib, "file_digest", lambda *a: read.append(a) or real(*a))
    assert install(tiny, tmp_path / "models", **options) == folder
    assert read == []
    install(tiny, tmp_path / "models", verify=True, **options)
    assert len(read) == 1


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_model_is_fetched_again(damage: str, tiny: CatalogModel, tmp_path: Path) -> None:
    options: dict[str, Any] = {"progress": print, "digest_cache": tmp_path / "cache"}
    file = install(tiny, tmp_path / "models", **options) / "tiny.gguf"
    good = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(good[:1000] if damage == "cut" else b"GGUF" + bytes(len(good)))
    install(tiny, tmp_path / "models", **options)
    assert file.read_bytes() == good


def test_a_file_that_is_not_the_promised_one_is_refused(tiny: CatalogModel, tmp_path: Path) -> None:
    assert isinstance(tiny.source, WheelSource)
    good = tiny.source
    forged = WheelSource(good.requirement, good.filename, good.sha256, good.member, "0" * 64)
    with pytest.raises(InstallError, match="SHA-256 differs"):
        install(CatalogModel("x", "", forged, "", 1, 1, 1), tmp_path / "models", progress=print)
    absent = WheelSource(good.requirement, good.filename, good.sha256, "tiny/none.gguf", "0" * 64)
    with pytest.raises(InstallError, match="cannot be unpacked"):
        install(CatalogModel("x", "", absent, "", 1, 1, 1), tmp_path / "models", progress=print)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_that_pip_cannot_get_is_a_sentence(
    tiny: CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """A folder stands in for the package index, so that pip really runs and nothing leaves this machine."""
    settings.WHEEL_CACHE = tmp_path / "empty"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    said: list[str] = []
    with pytest.raises(InstallError, match="tiny==1 could not be downloaded: No matching distribution"):
        install(tiny, tmp_path / "models", progress=said.append)
    # Whoever put a wheel aside hears why it is not the one that is taken.
    assert said[0] == f"{tmp_path / 'empty' / 'tiny-1-py3-none-any.whl'} is not there"
    assert list((tmp_path / "models").iterdir()) == []


def test_nothing_is_fetched_without_a_schema_and_the_folder_of_wheels_may_be_named_in_a_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "named").write_text(f"{tmp_path}/wheels\n")
    (tmp_path / "home").mkdir()
    database = f"sqlite:///{tmp_path}/home/db.sqlite3"

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={
                **minimal_environment(),
                "FLYWHEEL_HOME": str(tmp_path / "home"),
                "DATABASE_URL": database,
                "FLYWHEEL_WHEEL_CACHE_FILE": str(tmp_path / "named"),
                "PIP_NO_INDEX": "1",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    without = manage("models", "pull", DEMO.name)
    assert (without.returncode, without.stdout) == (1, "")
    assert "migrations are missing. Run: python manage.py migrate_locked" in without.stderr
    migrated(database, lambda: manage("migrate_locked"))
    done = manage("models", "pull", DEMO.name)
    assert done.returncode == 1
    assert isinstance(DEMO.source, WheelSource)
    assert f"{tmp_path}/wheels/{DEMO.source.filename} is not there" in done.stdout


def test_pip_fetches_the_wheel_where_none_was_put_aside(
    tiny: CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.WHEEL_CACHE = None
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    wheel = tmp_path / "wheels" / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "a") as archive:  # pip asks for a little more than we do
        archive.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        archive.writestr(
            "tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny-1.dist-info/RECORD", "")
    assert isinstance(tiny.source, WheelSource)
    source = WheelSource("tiny==1", wheel.name, sha256(wheel), tiny.source.member, tiny.source.member_sha256)
    fetched = CatalogModel("tiny", "", source, "", 1, 1, 1)
    assert (install(fetched, tmp_path / "models", progress=print) / "tiny.gguf").is_file()
    forged = CatalogModel(
        "x", "", WheelSource("tiny==1", wheel.name, "0" * 64, source.member, ""), "", 1, 1, 1
    )
    with pytest.raises(InstallError, match="SHA-256 differs"):
        install(forged, tmp_path / "models", progress=print)


def test_what_is_said_of_a_download_never_exceeds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While pip copies what it has fetched, there is more on the disk."""
    monkeypatch.setattr("inference.installation._POLL_SECONDS", 0.01)
    for name in ("fetched", "copied"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2_000_000)
    said: list[str] = []
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        end = child.stdin.close

        def progress(line: str) -> None:
            said.append(line)
            end()

        installation._watch(child, tmp_path, 3_000_000, progress)
    assert set(said) == {"3 of 3 MB"}


def test_only_weights_and_vocabularies_are_taken_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_dir: Path, db: None
) -> None:
    repository = tmp_path / "repository"
    save_model(repository)
    for name in ("pytorch_model.bin", "modeling_evil.py", "training_args.pt", "README.md"):
        (repository / name).write_text("no")

    def snapshot(repo_id: str, *, allow_patterns: list[str], local_dir: Path) -> None:
        assert repo_id == "Someone/Tiny-Model"
        for file in repository.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    models("pull", "Someone/Tiny-Model")
    folder = models_dir / "tiny-model"
    assert not [file.name for file in folder.iterdir() if file.suffix in (".bin", ".py", ".pt", ".md")]
    row = ServedModel.objects.get()
    assert (row.name, row.path, row.architecture, row.is_default) == (
        "tiny-model",
        "tiny-model",
        "llama",
        True,
    )


def test_a_hub_model_we_cannot_run_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_dir: Path, db: None
) -> None:
    def snapshot(repo_id: str, *, allow_patterns: list[str], local_dir: Path) -> None:
        (local_dir / "config.json").write_text('{"architectures": ["MambaForCausalLM"]}')
        (local_dir / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(CommandError, match=r"Someone/Mamba cannot be used: .*MambaForCausalLM"):
        models("pull", "Someone/Mamba")
    assert list(models_dir.iterdir()) == []
    assert not ServedModel.objects.exists()


# --- manage.py models -----------------------------------------------------------------------------------------
@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repositories that the hub has, as OWNER/MODEL."""

    def snapshot(repo_id: str, *, allow_patterns: list[str], local_dir: Path) -> None:
        shutil.copytree(tmp_path / "hub" / repo_id, local_dir, dirs_exist_ok=True)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return tmp_path / "hub"


def test_a_model_of_another_owner_is_not_taken_for_the_one_of_the_same_name(
    hub: Path, models_dir: Path, db: None
) -> None:
    save_model(hub / "Someone" / "Tiny-Model")
    save_model(hub / "Other" / "Tiny-Model", tiny_config(num_hidden_layers=2))
    models("pull", "Someone/Tiny-Model")
    row = ServedModel.objects.get()
    with pytest.raises(CommandError) as refused:
        models("pull", "Other/Tiny-Model")
    assert str(refused.value) == (
        "tiny-model is already Someone/Tiny-Model: fetch the other one elsewhere and add it with `models add PATH "
        "--name NAME`."
    )
    assert ServedModel.objects.get().digest == row.digest
    assert "is ready" in models("pull", "someone/tiny-model")  # the hub's names differ in more than that
    # Where it came from is no part of it.
    assert row.size_bytes == sum(
        file.stat().st_size for file in (models_dir / "tiny-model").iterdir() if file.name != "origin.txt"
    )
    assert row.digest == inspect_model(hub / "Someone" / "Tiny-Model").digest


def test_a_folder_that_does_not_say_where_it_came_from_is_taken_as_it_is(
    hub: Path, models_dir: Path, db: None
) -> None:
    save_model(models_dir / "tiny-model")
    assert "is ready" in models("pull", "Someone/Tiny-Model")


def test_a_model_whose_name_is_anothers_in_the_catalog_is_not_fetched(
    hub: Path, models_dir: Path, db: None
) -> None:
    save_model(hub / "Other" / "Qwen2.5-0.5B-Instruct")
    with pytest.raises(
        CommandError, match=r"is hub: Qwen/Qwen2.5-0.5B-Instruct in the catalog: fetch Other/Qwen"
    ):
        models("pull", "Other/Qwen2.5-0.5B-Instruct")
    assert not models_dir.exists()
    save_model(hub / "HuggingFaceTB" / "SmolLM2-360M-Instruct")
    models("pull", "HuggingFaceTB/SmolLM2-360M-Instruct")  # the catalog's own
    assert ServedModel.objects.get().name == "smollm2-360m-instruct"


def test_verifying_finds_bytes_of_a_hub_model_that_changed_behind_everybodys_back(
    hub: Path, models_dir: Path, db: None
) -> None:
    save_model(hub / "Someone" / "Tiny-Model")
    models("pull", "Someone/Tiny-Model")
    weights = models_dir / "tiny-model" / "model.safetensors"
    good, then = weights.read_bytes(), weights.stat()
    assert "damaged" not in models("pull", "Someone/Tiny-Model", "--verify")
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    os.utime(weights, ns=(then.st_atime_ns, then.st_mtime_ns))  # as a disk that fails leaves it
    assert "damaged" not in models("pull", "Someone/Tiny-Model")
    assert "tiny-model is damaged and is fetched again" in models("pull", "Someone/Tiny-Model", "--verify")
    assert weights.read_bytes() == good
    assert ServedModel.objects.get().digest == inspect_model(models_dir / "tiny-model").digest


@pytest.fixture
def demo_in_place(models_dir: Path, demo_model_folder: Path) -> None:
    models_dir.mkdir(parents=True)
    (models_dir / DEMO.name).mkdir()
    for file in demo_model_folder.iterdir():
        os.link(file, models_dir / DEMO.name / file.name)


def test_pulling_the_demo_model_registers_it_as_the_default(demo_in_place: None, db: None) -> None:
    models("pull", "smollm2-135m-instruct")
    row = ServedModel.objects.get()
    assert (row.name, row.path, row.is_default) == (DEMO.name, DEMO.name, True)
    assert (row.architecture, row.context_length, row.parameters) == ("llama", 8192, DEMO.parameters)
    assert isinstance(DEMO.source, WheelSource)
    assert row.digest == DEMO.source.member_sha256
    began = time.process_time()
    assert "is ready" in models("pull", "smollm2-135m-instruct")
    assert time.process_time() - began < 1.5
    assert ServedModel.objects.get().pk == row.pk
    assert f"* {DEMO.name}" in models("list")


def test_a_folder_and_a_gguf_are_added_where_they_are(models_dir: Path, tmp_path: Path, db: None) -> None:
    save_model(tmp_path / "My Model")
    save_gguf(tmp_path / "Other.gguf", gguf.GGMLQuantizationType.F16)
    models("add", str(tmp_path / "My Model"))
    models("add", str(tmp_path / "Other.gguf"), "--name", "second")
    first, second = ServedModel.objects.all()
    assert (first.name, first.path, first.is_default) == ("my-model", str(tmp_path / "My Model"), True)
    assert (second.name, second.is_default, second.context_length) == ("second", False, 512)
    models("default", "second")
    assert [(m.name, m.is_default) for m in ServedModel.objects.all()] == [
        ("second", True),
        ("my-model", False),
    ]


def test_adding_a_changed_model_again_brings_its_row_up_to_date(
    models_dir: Path, tmp_path: Path, db: None
) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(path, gguf.GGMLQuantizationType.F16)
    models("add", str(path))
    before = ServedModel.objects.get()
    save_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    models("add", str(path))
    after = ServedModel.objects.get()
    assert (before.pk, before.is_default) == (after.pk, after.is_default)
    assert before.digest != after.digest == sha256(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pull", "no-such-model"], "neither in the catalog nor"),
        (["pull", "../../etc"], "neither in the catalog nor"),
        (["add", "/nonexistent/model.gguf"], "is not there"),
        (["add", "GOOD", "--name", "../up"], "cannot be a model's name"),
        (["add", "PICKLE"], "pickled weights"),
        (["add", "NO TOKENIZER"], "tokenizer.json: is missing"),
        (["default", "nobody"], "No model is called 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_changed(
    arguments: list[str], says: str, models_dir: Path, tmp_path: Path, db: None
) -> None:
    save_model(tmp_path / "GOOD")
    save_model(tmp_path / "NO TOKENIZER")
    (tmp_path / "NO TOKENIZER" / "tokenizer.json").unlink()
    (tmp_path / "PICKLE").write_bytes(b"\x80\x04.")
    (tmp_path / "PICKLE").rename(tmp_path / "PICKLE.bin")
    places = {"GOOD": "GOOD", "PICKLE": "PICKLE.bin", "NO TOKENIZER": "NO TOKENIZER"}
    with pytest.raises(CommandError, match=says):
        models(*[str(tmp_path / places[part]) if part in places else part for part in arguments])
    assert not ServedModel.objects.exists()


def test_the_list_names_what_the_catalog_has_for_this_machine(models_dir: Path, db: None) -> None:
    said = models("list")
    assert "Nothing is installed yet." in said
    for model in CATALOG:
        assert model.name in said
    assert models_dir == settings.MODELS_DIR


def test_an_entry_of_the_hub_names_its_repository() -> None:
    assert str(HubSource("a/b")) == "hub: a/b"
