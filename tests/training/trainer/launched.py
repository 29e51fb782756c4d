"""Stands for the trainer, launched as it is: says what it finds, and does as its spec says."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from training.trainer.processes import Processes


def ports() -> list[str]:
    """Where this process and torchrun are listening."""
    both = [psutil.Process(), psutil.Process(os.getppid())]
    found = [each for process in both for each in process.net_connections() if each.status == "LISTEN"]
    return [each.laddr.ip for each in found]


def patience() -> float:
    """Seconds that one waits for the others."""
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
    waits: float = backend.options._timeout.total_seconds()
    return waits


def main() -> int:
    processes = Processes(torch.device("cpu"))
    asked = json.loads(Path(sys.argv[1]).read_text())
    said = {
        "rank": processes.rank,
        "world": processes.world,
        "torchrun": os.environ["TORCHELASTIC_RUN_ID"],
        "forked": psutil.Process(os.getppid()).cmdline() == psutil.Process().cmdline(),
        "sum": processes.total(processes.rank + 1),
        "patience": patience() if processes.world > 1 else 0.0,
        "ports": ports(),
        "folder": os.getcwd(),
    }
    Path(asked["output"], f"{processes.rank}.json").write_text(json.dumps(said))
    processes.wait()
    processes.close()
    if processes.rank == asked["failing"]:
        if asked["status"] < 0:
            os.kill(os.getpid(), -asked["status"])
        return int(asked["status"])
    if asked["status"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        time.sleep(60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
