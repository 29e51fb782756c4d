"""`make test`: every check of the project, each timed; fails if any of them does.

python -m tests.everything            all
python -m tests.everything --lint     what needs no services
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from tests.postgres import binaries

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# As a site behind a proxy that speaks HTTPS has it.
DEPLOYED = {
    "SITE_URL": "https://chat.example.org",
    "ALLOWED_HOSTS": "chat.example.org",
    "SECRET_KEY": "ten thousand monkeys typed this 0123456789 and it is long enough",
}
# Tests that start and kill whole sites.
WHOLE_SITES = "browser or faults or load"
# Where tests ask no database and no site: they compute.
COMPUTING = (
    "tests/inference/engine",
    "tests/inference/formats",
    "tests/inference/text",
    "tests/training/datasets",
    "tests/training/test_encoding.py",
    "tests/training/trainer",
)
# Two tests at a time, in each of two steps side by side: those of sites wait more than they compute. What is left is
# shared out again.
IN_PAIRS = ["-n", "2", "--dist", "worksteal"]
# All alike, and the lowest: a trainer, which gives way to everybody, would wait for every other test.
NICE = ["nice", "-n", "19"]
# Tests that compute with two threads each would wait for each other's.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Step:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def checks(home: str) -> list[Step]:
    """What needs no services. `home`: a throw-away $FLYWHEEL_HOME, for what reads settings."""
    manage = [sys.executable, "manage.py"]
    return [
        # First the longest.
        Step("types", [str(BIN / "mypy"), "--no-error-summary", "--num-workers", "2"]),
        Step("layers", [str(BIN / "lint-imports")]),
        Step("ruff", [str(BIN / "ruff"), "check", "--quiet"]),
        Step("format", [str(BIN / "ruff"), "format", "--check", "--quiet"]),
        Step("migrations", [*manage, "makemigrations", "--check", "--dry-run"], {"FLYWHEEL_HOME": home}),
        Step(
            "deployment settings",
            [*manage, "check", "--deploy", "--fail-level", "WARNING"],
            {**DEPLOYED, "FLYWHEEL_HOME": home},
        ),
    ]


def suites() -> list[Step]:
    """What may run side by side, and in the order in which each pair of them fills the cores."""
    pytest = [*NICE, sys.executable, "-m", "pytest", "-q", *IN_PAIRS]
    elsewhere = [f"--ignore={path}" for path in COMPUTING]

    def tests(what: str, server: str, *options: str) -> Step:
        return Step(what, [*pytest, *options], {"TEST_DATABASE_URL": server, **ONE_THREAD})

    def whole_sites(what: str, server: str, marked: str, *options: str) -> Step:
        return tests(what, server, *options, "-m", f"({marked}) and not timed", *files_with(marked))

    others = f"not ({WHOLE_SITES})"
    found = [
        tests("tests on SQLite", "sqlite", "-m", others, *elsewhere),
        tests("tests that compute", "sqlite", *COMPUTING),
        whole_sites("whole sites on SQLite", "sqlite", WHOLE_SITES),
    ]
    if server := postgres():
        found += [
            tests("tests on PostgreSQL", server, "--database-only", "-m", others, *elsewhere),
            whole_sites("whole sites on PostgreSQL", server, "faults", "--database-only"),
        ]
    return found


def postgres() -> str | None:
    """The server for the second database: one of our own, or the one that the environment names."""
    given = os.environ.get("TEST_DATABASE_URL") or os.environ.get("DATABASE_URL") or ""
    return "postgres" if binaries() else given if given.startswith("postgres") else None


def timed() -> Step:
    """What has the machine to itself."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "timed", *files_with("timed")]
    return Step("loads on SQLite", command, {"TEST_DATABASE_URL": "sqlite"})


def files_with(marked: str) -> list[str]:
    """Those that can hold tests so marked. Importing the others only to leave them out takes each process seconds."""
    mark = re.compile(rf"\bmark\.({marked.replace(' or ', '|')})\b")
    return [
        str(file)
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if mark.search(file.read_text(encoding="utf-8"))
    ]


def main() -> int:
    lint_only = "--lint" in sys.argv[1:]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fwlint") as home, ThreadPoolExecutor(2) as pair:
        results = [*pair.map(run, [*checks(home), *([] if lint_only else suites())])]
    if not lint_only:
        results.append(run(timed()))
    return summary(results, lint_only, time.monotonic() - begun)


class Result(NamedTuple):
    name: str
    passed: bool
    seconds: float
    processor_seconds: float  # of whatever it started and waited for, too


def run(step: Step) -> Result:
    """Each line it says is printed behind its name."""
    # Processes keep what they compiled of our own modules, whatever is usual where this runs.
    environment = {**os.environ, **step.environment, "PYTHONDONTWRITEBYTECODE": ""}
    started = time.monotonic()
    process = subprocess.Popen(
        step.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,  # the same here as in CI
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
    )
    # Apart, since a process that was left behind would keep the pipe open.
    reader = threading.Thread(target=_print_lines, args=(step.name, process.stdout), daemon=True)
    reader.start()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join(5)
    seconds = time.monotonic() - started
    return Result(step.name, process.returncode == 0, seconds, used.ru_utime + used.ru_stime)


def _print_lines(name: str, said: IO[str]) -> None:
    for line in said:
        print(f"{name} | {line.rstrip()}", flush=True)


def summary(results: list[Result], lint_only: bool, seconds: float) -> int:
    """Prints what passed; the exit status."""
    print("\n=== summary")
    for name, passed, took, used in results:
        print(f"{'passed' if passed else 'FAILED'}  {took:6.1f} s, {used:6.1f} s of a core  {name}")
    if not lint_only and all(result.name != "tests on PostgreSQL" for result in results):
        print("not run  tests on PostgreSQL: install the package postgresql, or set TEST_DATABASE_URL")
    failed = [result.name for result in results if not result.passed]
    print(f"{len(results) - len(failed)} of {len(results)} checks passed in {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
