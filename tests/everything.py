"""`make test`: every check of the project, each timed; fails if any of them does.

A few tests that failed beside others are tried once more, alone, and named in the summary either way
(docs/decisions/0016).

python -m tests.everything            all
python -m tests.everything --lint     what needs no services
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

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
# Each step of tests is one process: several would each import all of it, load the same models and start the same sites.
# Files are with the first part that has their folder.
Parts = Mapping[str, tuple[str, ...]]
COMPUTING_PARTS = {
    "the engine": ("tests/inference/engine",),
    "data and training": (
        "tests/inference/formats",
        "tests/inference/text",
        "tests/training/datasets",
        "tests/training/test_encoding.py",
        "tests/training/trainer",
    ),
}
# Where tests ask no database and no site: they compute.
COMPUTING = tuple(folder for folders in COMPUTING_PARTS.values() for folder in folders)
ASKING_PARTS = {"the API": ("tests/webapp/api",), "pages": ("tests/webapp",), "jobs": ("tests",)}
AGAIN_PARTS = {"the site": ("tests/webapp",), "jobs": ("tests",)}  # on a second database, which is asked less
SITES_PARTS = {
    "browser": ("tests/browser",),
    "operations": ("tests/webapp",),
    "deployed": ("tests/deploy", "tests/load"),
    "faults": ("tests",),
}
# So many steps side by side: half of them wait for others more than they compute.
AT_ONCE = 4
# All alike, and the lowest: a trainer, which gives way to everybody, would wait for every other test.
NICE = ["nice", "-n", "19"]
# Tests that compute with two threads each would wait for each other's.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# More than that fail for a reason.
FEW = 5
# Lines of what a failed step said, in the summary.
COMPLAINTS = 40
# pytest's for "tests ran, and some failed": all others mean that they did not run.
SOME_FAILED = 1


@dataclass(frozen=True)
class Step:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    # Tries what failed once more, alone; and where pytest notes what that was.
    again: list[str] = field(default_factory=list)
    notes: str = ""

    @property
    def failed_tests(self) -> list[str]:
        noted = Path(self.notes, "v", "cache", "lastfailed")
        return [*json.loads(noted.read_text(encoding="utf-8"))] if self.notes and noted.exists() else []


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


def suites(notes: str) -> list[Step]:
    """What may run side by side; first the longest, so that the last ones end together."""

    def tests(what: str, server: str, files: list[str], *options: str) -> Step:
        noted = str(Path(notes, what))
        pytest = [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir={noted}", *options]
        environment = {"TEST_DATABASE_URL": server, **ONE_THREAD}
        return Step(what, [*NICE, *pytest, *files], environment, [*pytest, "--last-failed", *files], noted)

    def asking(server: str, parts: Parts, *options: str) -> Iterator[Step]:
        for part, files in parted(parts, files_asking()):
            chosen = f"not ({WHOLE_SITES})"
            yield tests(f"tests on {name_of(server)}: {part}", server, files, "-m", chosen, *options)

    def whole_sites(server: str, parts: Parts, marked: str, *options: str) -> Iterator[Step]:
        for part, files in parted(parts, files_with(marked)):
            chosen = f"({marked}) and not timed"
            yield tests(f"whole sites on {name_of(server)}: {part}", server, files, "-m", chosen, *options)

    computing = [
        tests(f"tests that compute: {what}", "sqlite", [*where]) for what, where in COMPUTING_PARTS.items()
    ]
    found = [computing[0], *whole_sites("sqlite", SITES_PARTS, WHOLE_SITES), *asking("sqlite", ASKING_PARTS)]
    if server := postgres():
        found += whole_sites(server, {"faults": ("tests",)}, "faults", "--database-only")
        found += asking(server, AGAIN_PARTS, "--database-only")
    return [*found, *computing[1:]]


def name_of(server: str) -> str:
    return "SQLite" if server == "sqlite" else "PostgreSQL"


def parted(parts: Parts, files: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each file with the first part that has its folder."""
    for part, folders in parts.items():
        inside = [file for file in files if file.startswith(tuple(f"{folder}/" for folder in folders))]
        files = [file for file in files if file not in inside]
        yield part, inside


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
    return [file for file, text in test_files() if mark.search(text)]


def files_asking() -> list[str]:
    """Those that can hold tests of neither kind. One of a browser alone would take a second to import."""
    alone = re.compile(rf"^pytestmark = .*\bmark\.({WHOLE_SITES.replace(' or ', '|')})\b", re.MULTILINE)
    return [file for file, text in test_files() if not file.startswith(COMPUTING) and not alone.search(text)]


def test_files() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")


def main() -> int:
    lint_only = "--lint" in sys.argv[1:]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fwtest") as home, ThreadPoolExecutor(AT_ONCE) as lanes:
        results = [*lanes.map(run, [*checks(home), *([] if lint_only else suites(home))])]
        if not lint_only:
            results.append(run(timed()))
        results = [tried_again(result) for result in results]
    return summary(results, lint_only, time.monotonic() - begun)


@dataclass(frozen=True)
class Result:
    step: Step
    status: int
    seconds: float
    processor_seconds: float  # of whatever it started and waited for, too
    said: list[str]
    second_try: Result | None = None

    @property
    def passed(self) -> bool:
        return self.status == 0 or (self.second_try is not None and self.second_try.status == 0)


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
    said: list[str] = []
    # Apart, since a process that was left behind would keep the pipe open.
    reader = threading.Thread(target=_print_lines, args=(step.name, process.stdout, said), daemon=True)
    reader.start()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join(5)
    seconds = time.monotonic() - started
    return Result(step, process.returncode, seconds, used.ru_utime + used.ru_stime, said)


def _print_lines(name: str, output: IO[str], said: list[str]) -> None:
    for line in output:
        print(f"{name} | {line.rstrip()}", flush=True)
        said.append(line.rstrip())


def tried_again(result: Result) -> Result:
    """Where a few of its tests failed, beside the others: with those tried once more, alone."""
    step = result.step
    if result.status != SOME_FAILED or not 0 < len(step.failed_tests) <= FEW:
        return result
    print(f"{step.name} | once more, alone: {', '.join(step.failed_tests)}", flush=True)
    alone = Step(f"{step.name}, again", step.again, step.environment)
    return replace(result, second_try=run(alone))


def summary(results: list[Result], lint_only: bool, seconds: float) -> int:
    """Prints what passed, and last what did not; the exit status."""
    print("\n=== summary")
    names = [result.step.name for result in results]
    for result, name in zip(results, names, strict=True):
        how = "FAILED" if not result.passed else "AGAIN " if result.status else "passed"
        print(f"{how}  {result.seconds:6.1f} s, {result.processor_seconds:6.1f} s of a core  {name}")
    if not lint_only and not any("PostgreSQL" in name for name in names):
        print("not run  tests on PostgreSQL: install the package postgresql, or set TEST_DATABASE_URL")
    passed = sum(result.passed for result in results)
    print(f"{passed} of {len(results)} checks passed in {seconds:.0f} s")
    for result in results:
        if result.status:
            print(f"\n=== {result.step.name}: {_verdict(result)}")
            print("\n".join(_complaints(result)))
    return 0 if passed == len(results) else 1


def _complaints(result: Result) -> list[str]:
    """The end of what it said; of tests only which of them failed, and their errors."""
    said = [line for line in result.said if line.startswith(("E   ", "FAILED ", "ERROR ", "____"))]
    return (said or result.said)[-COMPLAINTS:]


def _verdict(result: Result) -> str:
    if result.second_try is None:
        return f"failed with status {result.status}"
    return "passed only at the second try, alone" if result.passed else "failed alone, too"


if __name__ == "__main__":
    sys.exit(main())
