"""`python -m training.trainer SPEC.json`: one training job, no services. See spec.py for what is in the file.

`training.launcher` starts it for a site, one or several that share each step out. A failure is one line of JSON on
stderr and an exit status of its own (failures.py), and stands in status.json. On SIGTERM it saves and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import torch

from training.trainer.choices import Choices
from training.trainer.classified import classified
from training.trainer.failures import EXIT_STATUS, Stopped, TrainingFailure
from training.trainer.giving_way import Learning
from training.trainer.job import Job
from training.trainer.processes import Processes, count
from training.trainer.spec import read_spec


def main(arguments: list[str], *, gives_way: bool = False) -> int:
    """`gives_way`: to everybody else's programs."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        return _failed(TrainingFailure("spec", "Usage: python -m training.trainer SPEC.json"), None)
    job: Job | None = None
    processes: Processes | None = None
    try:
        spec = read_spec(Path(arguments[0]))
        if spec.threads:
            torch.set_num_threads(spec.threads)
        choices = Choices()
        device = choices.device(spec, alone=count() == 1)
        Path(spec.output).mkdir(parents=True, exist_ok=True)
        processes = Processes(device)
        # Several processes would wait for the one that is held up, and a GPU for its program.
        alone = processes.world == 1 and device.type == "cpu"
        job = Job(spec, processes, choices, device, Learning() if gives_way and alone else None)
        job.run()
    except Stopped:
        assert job is not None
        with contextlib.suppress(OSError):
            job.record.state("stopped")
        return EXIT_STATUS["stopped"]
    except TrainingFailure as failure:
        return _failed(failure, job)
    except Exception as error:
        failure_of_machine = classified(error)
        if failure_of_machine is None:
            if job is not None:
                with contextlib.suppress(OSError):
                    job.record.failed("internal", "The training ended by an error on our side.")
            raise
        return _failed(failure_of_machine, job)
    finally:
        if processes is not None:
            processes.close()
    return 0


def _failed(failure: TrainingFailure, job: Job | None) -> int:
    """On a full disk neither may be written, and the exit status is all there is."""
    if job is not None:
        with contextlib.suppress(OSError):
            job.record.failed(failure.code, failure.message)
    said = json.dumps({"error": failure.code, "message": failure.message})
    with contextlib.suppress(OSError):
        os.write(2, f"{said}\n".encode())  # what Python keeps to write would fail it once more, when it ends
    return EXIT_STATUS[failure.code]
