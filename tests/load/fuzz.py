"""The API under requests that nobody would write by hand: schemathesis makes them from the API's own document, and what
comes back has to be in that document and never a server's error.

python -m tests.load.fuzz CASES SEED           on a site of its own with a scripted engine; `make fuzz` runs 20,000
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.services import Site

_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Made-up keys revoke, and made-up ids delete, nothing that the run needs; what would end it is left out.
_PHASES = "coverage,fuzzing"


@dataclass(frozen=True)
class Outcome:
    cases: int
    failures: list[str]  # what schemathesis says of each

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.cases + other.cases, self.failures + other.failures)


def fuzz(
    site: Site, key: str | None, *, examples: int, seed: int, phases: str = _PHASES, without: str = "^$"
) -> Outcome:
    """At most so many made-up requests for each operation but those whose paths match `without`."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.ndjson"
        headers = ["-H", f"Authorization: Bearer {key}"] if key else []
        done = subprocess.run(
            [
                program, "run", f"{site.base_url}/v1/openapi.json", "--phases", phases, "--checks", _CHECKS,
                "--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure",
                "--request-timeout", "20", "--suppress-health-check", "all", "--workers", "2", "--no-color",
                "--exclude-path-regex", without, "--warnings", "off", "--generation-database", "none",
                "--report", "ndjson", "--report-ndjson-path", str(events), *headers,
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        return _outcome(events, done)


def _outcome(events: Path, done: subprocess.CompletedProcess[str]) -> Outcome:
    cases = 0
    for line in events.read_text().splitlines() if events.exists() else []:
        scenario = json.loads(line).get("ScenarioFinished")
        if scenario:
            cases += len(scenario["recorder"]["cases"])
    failures = [] if done.returncode == 0 else [done.stdout[-6000:] + done.stderr[-2000:]]
    return Outcome(cases, failures)


def main(cases: int, seed: int) -> int:
    import os

    os.environ["DJANGO_SETTINGS_MODULE"] = (
        "tests.settings"  # Celery, where it is imported first, names the site's
    )
    import django

    django.setup()
    from tests.conftest import new_site
    from tests.webapp.api.live_clients import key_of

    # Answers may be as long as a made-up max_tokens says.
    site = new_site(environment={"SCRIPTED_RATE": "50000"})
    total = Outcome(0, [])
    try:
        site.start()
        site.create_owner()
        while total.cases < cases and not total.failures:
            for key in (key_of(site), None):
                total += fuzz(site, key, examples=100, seed=seed)
                print(f"    {total.cases} cases, {len(total.failures)} failures", flush=True)
            seed += 1
    finally:
        site.stop()
    print("\n".join(total.failures))
    return bool(total.failures)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
