"""torchrun launches every job, one process or many: nobody from outside can join in, and it ends as they did."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.services import wait_until
from tests.training.trainer import launched
from training import launcher, trainer_process
from training.trainer.failures import EXIT_STATUS


def begin(folder: Path, processes: int, **asked: Any) -> subprocess.Popen[str]:
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"output": str(folder), "status": 0, "failing": -1} | asked))
    command = trainer_process.command(spec, processes)
    command[command.index(str(trainer_process.TRAINER))] = str(launched.__file__)
    environment = trainer_process.environment(str(folder), threads=1)
    return subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True)


def launch(folder: Path, processes: int, **asked: Any) -> tuple[int, str, list[dict[str, Any]]]:
    """Its exit status, its log, and what each process found."""
    with begin(folder, processes, **asked) as process:
        _, log = process.communicate(timeout=120)
    launcher.forget(str(folder))
    said = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
    return process.returncode, log, said


@pytest.mark.parametrize("processes", [1, 2])
def test_torchrun_forks_a_jobs_processes_which_meet_where_nobody_else_can(
    processes: int, tmp_path: Path
) -> None:
    status, log, said = launch(tmp_path, processes)
    assert (status, log) == (0, "")
    assert [(each["rank"], each["world"]) for each in said] == [(n, processes) for n in range(processes)]
    assert {each["sum"] for each in said} == {sum(range(1, processes + 1))}
    if processes > 1:  # while the first saves a large model
        assert {each["patience"] for each in said} == {2 * 60 * 60}
    (run,) = {each["torchrun"] for each in said}
    assert run
    (folder,) = {Path(each["folder"]) for each in said}
    for each in said:
        assert each["forked"]
        assert {*each["ports"]} <= {"127.0.0.1"}
    assert not folder.exists()


def test_a_job_ends_as_the_first_of_its_processes_that_failed_and_with_it_the_others(tmp_path: Path) -> None:
    status, log, _ = launch(tmp_path, 2, failing=1, status=EXIT_STATUS["disk"])
    assert status == EXIT_STATUS["disk"]
    assert "Traceback" not in log  # who ends with a status has said why


def test_a_process_that_is_killed_is_no_failure_of_the_trainers_and_named_in_the_log(tmp_path: Path) -> None:
    status, log, _ = launch(tmp_path, 1, failing=0, status=-9)
    assert status not in EXIT_STATUS.values()
    assert "Process 0 of the job ended with exit status -9." in log


def test_a_launcher_that_is_killed_leaves_nothing_in_memory(tmp_path: Path) -> None:
    said = tmp_path / "0.json"
    with begin(tmp_path, 1, status=1):
        wait_until(lambda: said.exists() and said.read_text(), "what the process found")
        folder = Path(json.loads(said.read_text())["folder"])
        assert folder.exists()
        trainer_process.end_left(str(tmp_path))
        assert not folder.exists()
