"""Stands for `training.trainer` in its command: says what it can open of what its spec asks."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def opens(path: str, mode: str = "rb") -> bool:
    try:
        with open(path, mode):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())["prying"]
    read = {path: opens(path) for path in asked["read"]}
    written = {path: opens(path, "ab") for path in asked["write"]}
    print(json.dumps(read | written))
