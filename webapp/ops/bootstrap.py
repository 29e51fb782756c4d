"""From a fresh clone to a usable .venv. Run by path, by any Python, with the standard library alone.

    python3 webapp/ops/bootstrap.py             the environment
    python3 webapp/ops/bootstrap.py --browser   and a Chromium for the browser tests

Installing is skipped where pyproject.toml, constraints.txt and the Python are those of the last time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
LEAST = (3, 11)
EVERY_SECONDS = 5
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def fail(sentence: str) -> None:
    sys.exit(f"flywheel: {sentence}")


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def doing(line: str) -> str:
    """What a line of pip's or apt's tells a person who waits; "" where it is a remark about something else."""
    verb, _, rest = line.strip().partition(" ")
    if verb in ("Collecting", "Downloading", "Building", "Unpacking", "Preparing"):
        return f"{verb.lower()} {rest}"[:90]
    if line.startswith("Installing collected packages"):
        return f"unpacking {line.count(',') + 1} packages"
    if verb == "Setting":
        return f"setting {rest}"[:90]
    return ""


def run(what: str, command: list[str], environment: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Runs a command whose output is shown a line every few seconds; returns its status and its last lines."""
    started = time.monotonic()
    last: list[str] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(EVERY_SECONDS):
            now = next(filter(None, map(doing, reversed(last))), "")
            say(f"  {what}, {time.monotonic() - started:.0f} s{': ' + now if now else ''}")

    say(f"  {what}")
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            last = [*last[-29:], line.rstrip()]
    done.set()
    thread.join()
    return child.returncode, last


def install_packages(*names: str, why: str) -> None:
    """Debian packages, where we may; else a sentence that names them."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        fail(
            f"{why}: install the package {' or '.join(names)} (on Debian and Ubuntu: apt-get install {names[0]})."
        )
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("Reading the list of system packages", ["apt-get", "update"], quiet)
    for name in names:
        status, _ = run(
            f"Installing the system package {name}",
            ["apt-get", "install", "-y", "--no-install-recommends", name],
            quiet,
        )
        if status == 0:
            return
    fail(f"{why}, and {' or '.join(names)} could not be installed with apt-get.")


def fingerprint() -> str:
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(content + sys.version.encode()).hexdigest()


def works(python: Path) -> bool:
    try:
        return subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def environment() -> None:
    """Makes .venv hold exactly what the two files ask for."""
    if STAMP.exists() and STAMP.read_text() == fingerprint() and (VENV / "bin" / "python").exists():
        return
    say("Setting up: this happens once, and again when the dependencies change.")
    python = VENV / "bin" / "python"
    if not works(python):
        create = [sys.executable, "-m", "venv", "--clear", str(VENV)]
        if run("Making .venv", create)[0]:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            install_packages(f"python{version}-venv", "python3-venv", why="Python lacks its venv module")
            status, last = run("Making .venv", create)
            if status:
                fail("The environment .venv could not be made:\n" + "\n".join(last))
    install = [str(python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    status, last = run("Installing dependencies", [*install, "-c", "constraints.txt", "-e", ".[worker,dev]"])
    if status:
        fail("The dependencies could not be installed. What pip said last:\n" + "\n".join(last))
    STAMP.write_text(fingerprint())


def browser() -> None:
    if not any(shutil.which(name) for name in BROWSERS):
        install_packages("chromium", "chromium-browser", why="The browser tests need Chromium")


def main() -> None:
    if sys.version_info < LEAST:
        fail(
            f"Python {LEAST[0]}.{LEAST[1]} or newer is needed, this is {sys.version.split()[0]}: install one, "
            "or name it, as in `make run PYTHON=/path/of/python3.12`."
        )
    # The folder itself is the lock: two makes at once must not both install.
    lock = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    environment()
    if "--browser" in sys.argv[1:]:
        browser()


if __name__ == "__main__":
    main()
