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
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.postgres import binaries

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# As a site behind a proxy that speaks HTTPS has it.
DEPLOYED = {
    "SITE_URL": "https://chat.example.org",
    "ALLOWED_HOSTS": "chat.example.org",
    "SECRET_KEY": "ten thousand monkeys typed this 0123456789 and it is long enough",
}
# Tests that start and kill whole sites; in a run of their own, so that no test that computes holds them up.
WHOLE_SITES = "browser or faults"
# Two tests at a time. Half of the cores would idle while the engine is compared with transformers, so what is left is
# shared out again. What times things has the machine to itself.
IN_PAIRS = ["-n", "2", "--dist", "worksteal"]
# Two tests that compute with two threads each would wait for each other's.
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
    pytest = [sys.executable, "-m", "pytest", "-q"]

    def tests(what: str, marked: str, server: str, *options: str) -> Step:
        environment = {"TEST_DATABASE_URL": server, **(ONE_THREAD if IN_PAIRS[0] in options else {})}
        return Step(what, [*pytest, *options, "-m", marked, *files_with(marked)], environment)

    found = [tests("tests on SQLite", f"not ({WHOLE_SITES} or load)", "sqlite", *IN_PAIRS)]
    found.append(tests("whole sites on SQLite", WHOLE_SITES, "sqlite", *IN_PAIRS))
    found.append(tests("loads on SQLite", "load", "sqlite"))
    given = os.environ.get("TEST_DATABASE_URL") or os.environ.get("DATABASE_URL") or ""
    server = "postgres" if binaries() else given if given.startswith("postgres") else None
    if server:
        second = (*IN_PAIRS, "--database-only")
        found.append(tests("tests on PostgreSQL", f"not ({WHOLE_SITES} or load)", server, *second))
        found.append(tests("whole sites on PostgreSQL", "faults", server, *second))
    return found


def files_with(marked: str) -> list[str]:
    """Those that can hold tests so marked; none, which is all, where it says what tests are not. Importing the others
    only to leave them out takes a dozen seconds of each process."""
    if marked.startswith("not"):
        return []
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
        results = [*pair.map(run_quietly, checks(home))]
    if not lint_only:
        results += [run(step) for step in suites()]
    return summary(results, lint_only, time.monotonic() - begun)


def run_quietly(step: Step) -> tuple[str, bool, float]:
    """As `run`, beside another: what it says is printed in one piece, at its end."""
    started = time.monotonic()
    done = _start(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"\n=== {step.name}\n{done.stdout}", end="", flush=True)
    return step.name, done.returncode == 0, time.monotonic() - started


def run(step: Step) -> tuple[str, bool, float]:
    """Its name, whether it passed, and its seconds."""
    print(f"\n=== {step.name}", flush=True)
    started = time.monotonic()
    done = _start(step)
    return step.name, done.returncode == 0, time.monotonic() - started


def _start(step: Step, **options: Any) -> subprocess.CompletedProcess[Any]:
    environment = {**os.environ, **step.environment}
    # No standard input: the same here as in CI.
    return subprocess.run(
        step.command, cwd=ROOT, stdin=subprocess.DEVNULL, env=environment, check=False, **options
    )


def summary(results: list[tuple[str, bool, float]], lint_only: bool, seconds: float) -> int:
    """Prints what passed; the exit status."""
    print("\n=== summary")
    for name, passed, took in results:
        print(f"{'passed' if passed else 'FAILED'}  {took:6.1f} s  {name}")
    if not lint_only and all(name != "tests on PostgreSQL" for name, _, _ in results):
        print(
            "not run            tests on PostgreSQL: install the package postgresql, or set TEST_DATABASE_URL"
        )
    failed = [name for name, passed, _ in results if not passed]
    print(f"{len(results) - len(failed)} of {len(results)} checks passed in {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
