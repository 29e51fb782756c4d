"""A trainer that was taken over by what it read: its folder is all it can write to, and what lies there leads nowhere.

Landlock keeps it from other files; these are what the worker, which nothing keeps from them, does with its folder.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from inference import model_storage
from inference.models import ServedModel
from tests.training.jobs import scripted_trainer
from tests.training.jobs.conftest import Start
from tests.webapp.api.conftest import key_client
from training import storage, tail, trainer_process, training_worker
from training.models import Job, ResultFile
from training.publishing import prepare
from training.training_worker import run_next
from webapp.accounts.models import User, Workspace
from webapp.core.errors import UserError

pytestmark = pytest.mark.django_db
State = Job.State
LINE = {"type": "step", "step": 1, "loss": 2.0}


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A file that is none of the trainer's, and stays as it is."""
    path = tmp_path / "secret"
    path.write_text('{"task": "regression"}\nhalf a line')
    yield path
    assert path.read_text() == '{"task": "regression"}\nhalf a line'


@pytest.fixture
def folder(start: Start) -> Path:
    start()
    folder = storage.job_folder(Job.objects.get())
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def trained(folder: Path, base: ServedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Job]]:
    """The job after a trainer that does what it should."""
    program = [sys.executable, scripted_trainer.__file__, "works"]
    monkeypatch.setattr(trainer_process, "command", lambda spec, processes: [*program, str(spec)])
    monkeypatch.setattr(training_worker, "prepare", lambda job, folder, checkpoints: None)
    monkeypatch.setattr(training_worker, "_TICK", 0.02)

    def run() -> Job:
        run_next()
        return Job.objects.get()

    yield run
    training_worker.stopping.clear()


def within(seconds: float, do: Callable[[], Any]) -> Any:
    """What it returns or raises; it may hang for ever where it opens a pipe."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(do())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, "it hangs"
    return results[0]


@pytest.mark.parametrize("name", ["spec.json", "results.csv", "trainer.log", "evaluation.json"])
def test_a_link_in_place_of_a_file_leads_its_worker_to_no_other(
    name: str, folder: Path, secret: Path, trained: Callable[[], Job]
) -> None:
    (folder / name).symlink_to(secret)
    job = trained()
    assert job.evaluation is None
    # What the worker makes, it makes anew; what it reads or goes on with is not there.
    expected = State.SUCCEEDED if name in ("spec.json", "results.csv") else State.FAILED
    assert job.state == expected, job.error_message


@pytest.mark.parametrize("name", ["metrics.jsonl", "status.json"])
def test_what_a_trainer_says_is_in_its_own_file_or_not_heard(name: str, folder: Path, secret: Path) -> None:
    job = Job.objects.get()
    (folder / name).symlink_to(secret)
    assert tail.read_status(folder) == {}
    if name == "metrics.jsonl":
        for take in (tail.begin, tail.take_in):
            with pytest.raises(OSError, match="Too many levels of symbolic links"):
                take(job, folder)


def test_pipes_in_place_of_files_hold_nobody_up(folder: Path) -> None:
    job = Job.objects.get()
    for name in ("status.json", "metrics.jsonl"):
        os.mkfifo(folder / name)
    assert within(10, lambda: tail.read_status(folder)) == {}
    assert isinstance(within(10, lambda: tail._new_lines(folder, 0)), OSError)
    assert isinstance(within(10, lambda: tail.begin(job, folder)), OSError)


def test_files_that_are_larger_than_memory_are_read_in_parts(folder: Path) -> None:
    job = Job.objects.get()
    job.state = State.RUNNING
    job.save()
    for name in ("status.json", "metrics.jsonl"):
        with (folder / name).open("wb") as file:
            file.truncate(2**28)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"\n" + json.dumps(LINE).encode() + b"\n")
    tracemalloc.start()
    try:
        assert tail.read_status(folder) == {}
        tail.drain(job, folder)
        assert tracemalloc.get_traced_memory()[1] < 2**26
        (folder / "metrics.jsonl").open("ab").truncate(2**28)
        tail.begin(job, folder)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert job.measurements.get().loss == 2.0


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "step", "step": 2, "loss": NaN}',
        b'{"type": "step", "step": 2, "loss": 1e999}',
        b'{"type": "step", "step": 2, "loss": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=["nan", "infinite", "deep", "bytes"],
)
def test_lines_that_are_no_measurements_are_passed_over(line: bytes, folder: Path) -> None:
    job = Job.objects.get()
    job.state = State.RUNNING
    job.save()
    said = json.dumps(LINE).encode()
    (folder / "metrics.jsonl").write_bytes(line + b"\n" + said + b"\n")
    (folder / "status.json").write_bytes(line)
    tail.drain(job, folder)
    assert [each.loss for each in job.measurements.all()] == [2.0]


def test_an_evaluation_that_no_page_can_show_is_no_success(
    folder: Path, trained: Callable[[], Job], alice: User
) -> None:
    (folder / "evaluation.json").write_text('{"task": "classification", "classes": "all of them"}')
    job = trained()
    assert (job.state, job.error_code, job.evaluation) == (State.FAILED, "internal", None)
    client = Client()
    client.force_login(alice)
    assert client.get(f"/fine-tunes/{job.pk}/").status_code == 200


@pytest.mark.parametrize(
    "place", ["adapter", "adapter/adapter_model.safetensors", "checkpoints/step-00000004/x"]
)
def test_what_it_learnt_is_copied_from_its_own_files_alone(
    place: str, folder: Path, secret: Path, tmp_path: Path
) -> None:
    job = Job.objects.select_related("workspace", "base").get()
    (tmp_path / "theirs").mkdir()
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).symlink_to(tmp_path / "theirs" if place == "adapter" else secret)
    with pytest.raises(UserError) as refused:
        prepare(job, folder)
    assert refused.value.code == "model_unusable"
    assert str(folder / place) in refused.value.message


def test_a_link_that_takes_a_files_place_at_the_last_moment_is_not_followed(
    secret: Path, tmp_path: Path, settings: Settings
) -> None:
    link = tmp_path / "config.json"
    link.symlink_to(secret)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        model_storage.keep("trained", "ft:x", [link], lambda folder: None)
    assert list(model_storage.located("trained").iterdir()) == []


def test_results_that_became_a_link_are_not_there(
    folder: Path, secret: Path, workspace: Workspace, alice: User
) -> None:
    job = Job.objects.get()
    result = ResultFile.objects.create(job=job, size=1)
    storage.result_path(job.pk).symlink_to(secret)
    answer = key_client(alice, workspace).get(f"/v1/files/file-{result.pk.hex}/content")
    assert answer.status_code == 404
