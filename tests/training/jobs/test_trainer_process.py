"""A trainer beside a site that chats: it gets little of the processors, and is the first to go without memory."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.services import wait_until
from training import job_life, launcher, trainer_process
from training.trainer import orphans
from training.trainer_process import NICE, TrainerProcess, marked


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What torchrun is asked for."""
    asked: list[str] = []
    monkeypatch.setattr("torch.distributed.run.main", asked.extend)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    launcher.main(["1", "trainer.py", "spec.json"])
    return asked


def test_a_trainer_whose_worker_died_is_gone_before_another_host_can_have_its_job(
    launched: list[str],
) -> None:
    assert job_life.LEASE.total_seconds() > orphans.SECONDS + trainer_process.ENDING_SECONDS
    assert f"--shutdown-timeout={orphans.SECONDS}" in launched


def test_a_job_of_weeks_fills_no_memory_with_notes_of_torchrun_that_it_lives(launched: list[str]) -> None:
    (conf,) = (each for each in launched if each.startswith("--rdzv-conf="))
    assert int(conf.partition("keep_alive_interval=")[2]) > 365 * 24 * 3600


def test_what_a_trainer_starts_with_another_environment_does_not_outlive_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ["sh", "-c", "env -i sleep 60 & echo $! > started; wait"]
    monkeypatch.setattr(trainer_process, "command", lambda spec, processes: program)
    trainer = TrainerProcess(tmp_path, str(tmp_path), tmp_path / "spec.json", processes=1, threads=1)
    started = tmp_path / "started"
    left = psutil.Process(int(wait_until(lambda: started.exists() and started.read_text(), "what it starts")))
    wait_until(lambda: left.name() == "sleep", "its new environment")
    trainer.kill()
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


def test_a_trainer_gives_way_to_chat_and_is_the_first_to_end_where_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []
    setpriority = os.setpriority

    def noting(which: int, who: int, nice: int) -> None:
        asked.append((which, who, nice))
        setpriority(which, who, nice)

    monkeypatch.setattr(os, "setpriority", noting)
    monkeypatch.setattr(trainer_process, "command", lambda spec, processes: ["sleep", "60"])
    job = str(tmp_path)
    trainer = TrainerProcess(tmp_path, job, tmp_path / "spec.json", processes=1, threads=1)
    try:
        (process,) = wait_until(lambda: marked(job), "its environment")
        # These tests may run at a lower priority than a trainer has, and it gets none that is higher than theirs: that
        # it was asked for is all that can be seen then.
        nice = max(NICE, os.getpriority(os.PRIO_PROCESS, 0))
        assert asked == [(os.PRIO_PROCESS, process.pid, nice)]
        assert process.nice() == nice > 0
        if sys.platform == "linux":
            assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) >= 800
            session = Path(f"/proc/{process.pid}/autogroup")  # not of every kernel
            assert not session.exists() or session.read_text().endswith(f"nice {NICE}\n")
    finally:
        trainer.kill()
    assert not marked(job)
