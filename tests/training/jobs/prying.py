"""Stands for `training.trainer` in its command: says what it can open of what its spec asks."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

# Among the files it is to write: one where its temporary files are.
TEMPORARY = "a temporary file"


def opens(path: str, mode: str = "rb") -> bool:
    try:
        with open(path, mode):
            return True
    except OSError:
        return False


def connects(family: int, address: object) -> bool:
    try:
        with socket.socket(family) as there:
            there.connect(address)  # type: ignore[arg-type]
            return True
    except OSError:
        return False


def signals(process: int) -> bool:
    try:
        os.kill(process, 0)
        return True
    except OSError:
        return False


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())["prying"]
    read = {path: opens(path) for path in asked["read"]}
    temporary = os.path.join(tempfile.gettempdir(), "written")
    written = {path: opens(temporary if path == TEMPORARY else path, "ab") for path in asked["write"]}
    signalled = {str(process): signals(process) for process in asked.get("signal", ())}
    reached = {str(port): connects(socket.AF_INET, ("127.0.0.1", port)) for port in asked["connect"]}
    print(json.dumps(read | written | signalled | reached))
