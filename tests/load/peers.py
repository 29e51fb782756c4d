"""The environment of the peers, .venv-peers: made when a benchmark first needs it, and needed by nothing else."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.ops.bootstrap import ROOT, run

_VENV = ROOT / ".venv-peers"
_PYTHON = _VENV / "bin" / "python"
_PINS = ("peers.txt", "constraints.txt")


class Unavailable(Exception):
    """A peer that cannot be installed or does not run here; the message is a sentence."""


@dataclass(frozen=True)
class Peer:
    """`program`, in this folder, reads what to do from a JSON file and prints what it measured as a line of JSON."""

    name: str  # as rows call it
    packages: tuple[str, ...]
    program: str

    def install(self) -> None:
        """Raises Unavailable. Shows every few seconds what it does: llama.cpp takes minutes to compile."""
        pins = b"".join((ROOT / name).read_bytes() for name in _PINS)
        wanted = hashlib.sha256(pins + sys.version.encode()).hexdigest()
        stamp = _VENV / f".{self.name}"
        if stamp.exists() and stamp.read_text() == wanted and _PYTHON.exists():
            return
        if not _PYTHON.exists() and run("Making .venv-peers", [sys.executable, "-m", "venv", str(_VENV)])[0]:
            raise Unavailable("The environment .venv-peers could not be made.")
        pinned = [argument for name in _PINS for argument in ("-c", name)]
        command = [str(_PYTHON), "-m", "pip", "install", "--no-input", "--progress-bar", "off", *pinned]
        # All this machine's instructions, and none of the parts that read images.
        compiled = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"}
        status, last = run(f"Installing {' and '.join(self.packages)}", [*command, *self.packages], compiled)
        if status:
            print("\n".join(last), flush=True)
            raise Unavailable(f"{self.packages[0]} could not be installed.")
        stamp.write_text(wanted)

    def measure(self, **task: Any) -> Any:
        """What the program answers to the task, both JSON. Raises Unavailable."""
        self.install()
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(task, file)
            file.flush()
            # -P: what lies beside the program, such as our datasets.py, hides no package of theirs.
            return json_of(
                self.name, [str(_PYTHON), "-P", str(Path(__file__).parent / self.program), file.name]
            )


def json_of(what: str, command: list[str]) -> Any:
    """The line of JSON a program prints. Raises Unavailable where it prints none."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    if done.returncode or not lines:
        print(done.stderr[-2000:], flush=True)
        raise Unavailable(f"{what} failed with exit status {done.returncode}.")
    return json.loads(lines[-1])


LLAMACPP = Peer("llamacpp", ("llama-cpp-python",), "peer_llamacpp.py")
TRANSFORMERS = Peer("transformers", ("transformers", "torch", "accelerate", "gguf"), "peer_transformers.py")
TRL = Peer("trl", (*TRANSFORMERS.packages, "trl", "peft", "datasets"), "peer_trl.py")
