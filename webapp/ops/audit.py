"""`make audit`: whether a pinned package is known to be vulnerable. Needs a network. Run by path, by any Python.

pip-audit and what it brings live in an environment of their own, so that the site's holds what the site needs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv-audit"
PIP_AUDIT = "pip-audit==2.10.1"
NO_NETWORK = "flywheel: The audit needs a network: {}"


def tool() -> Path:
    """pip-audit, installed on first use."""
    program = VENV / "bin" / "pip-audit"
    if not (program.exists() and (VENV / PIP_AUDIT).exists()):
        _quietly([sys.executable, "-m", "venv", "--clear", str(VENV)], "the environment cannot be made")
        install = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input", "--retries", "1"]
        _quietly([*install, PIP_AUDIT], f"{PIP_AUDIT} cannot be installed")
        (VENV / PIP_AUDIT).touch()
    return program


def _quietly(command: list[str], trouble: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(NO_NETWORK.format(f"{trouble}. {_last_line(done.stderr)}"))


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["No reason was given."])[-1]


def main() -> None:
    # Pins name every package, what they bring included: nothing is resolved, and nothing installed.
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "-r", "constraints.txt"]
    done = subprocess.run(
        [str(tool()), *options], cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    # Findings are exit status 1 too, and then there is a table on stdout.
    if "Error" in done.stderr or "Max retries" in done.stderr:
        sys.exit(NO_NETWORK.format(_last_line(done.stderr)))
    sys.stderr.write(done.stderr)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
