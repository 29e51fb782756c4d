"""`make test`: every check of the project, one after the other, each timed; fails if any of them does.

python -m tests.everything            all
python -m tests.everything --lint     what needs no services
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.postgres import binaries

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# As a site behind a proxy that speaks HTTPS has it.
DEPLOYED = {
    "SITE_URL": "https://chat.example.org",
    "ALLOWED_HOSTS": "chat.example.org",
    "SECRET_KEY": "ten thousand monkeys typed this 0123456789 and it is long enough",
}
# What a second database can change: everything but the engine, the text code and the browser.
SECOND_DATABASE = [
    "tests",
    "--ignore=tests/inference/engine",
    "--ignore=tests/inference/text",
    "-m",
    "not browser and not load",
]


@dataclass(frozen=True)
class Step:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def steps(lint_only: bool) -> list[Step]:
    manage = [sys.executable, "manage.py"]
    found = [
        Step("ruff", [str(BIN / "ruff"), "check", "--quiet"]),
        Step("format", [str(BIN / "ruff"), "format", "--check", "--quiet"]),
        Step("types", [str(BIN / "mypy"), "--no-error-summary"]),
        Step("layers", [str(BIN / "lint-imports")]),
        Step("migrations", [*manage, "makemigrations", "--check", "--dry-run"]),
        Step("deployment settings", [*manage, "check", "--deploy", "--fail-level", "WARNING"], DEPLOYED),
    ]
    if lint_only:
        return found
    pytest = [sys.executable, "-m", "pytest", "-q"]
    found.append(Step("tests on SQLite", pytest, {"TEST_DATABASE_URL": "sqlite"}))
    server = os.environ.get("DATABASE_URL", "")
    if binaries() is not None:
        found.append(
            Step("tests on PostgreSQL", [*pytest, *SECOND_DATABASE], {"TEST_DATABASE_URL": "postgres"})
        )
    elif server.startswith("postgres"):
        found.append(Step("tests on PostgreSQL", [*pytest, *SECOND_DATABASE], {"TEST_DATABASE_URL": server}))
    return found


def main() -> int:
    lint_only = "--lint" in sys.argv[1:]
    begun = time.monotonic()
    results: list[tuple[str, bool, float]] = []
    for step in steps(lint_only):
        print(f"\n=== {step.name}", flush=True)
        started = time.monotonic()
        # No terminal and no standard input: the same here as in CI.
        done = subprocess.run(
            step.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **step.environment},
            check=False,
        )
        results.append((step.name, done.returncode == 0, time.monotonic() - started))
    print("\n=== summary")
    for name, passed, seconds in results:
        print(f"{'passed' if passed else 'FAILED'}  {seconds:6.1f} s  {name}")
    if not lint_only and all(name != "tests on PostgreSQL" for name, _, _ in results):
        print(
            "not run            tests on PostgreSQL: install the package postgresql, or set DATABASE_URL to a server"
        )
    failed = [name for name, passed, _ in results if not passed]
    print(f"{len(results) - len(failed)} of {len(results)} checks passed in {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
