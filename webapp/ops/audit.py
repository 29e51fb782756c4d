"""`make audit`: whether a pinned package is known to be vulnerable. Needs a network.

pip-audit and what it brings lie in a folder of their own, so that the site's environment holds what the site needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".audit"
PIP_AUDIT = "pip-audit==2.10.1"
NO_NETWORK = "flywheel: The audit needs a network: {}"


def install() -> None:
    """On first use, and again for another version."""
    if (FOLDER / PIP_AUDIT).exists():
        return
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-input", "--retries", "1"]
    done = subprocess.run(
        [*pip, "--upgrade", "--target", str(FOLDER), PIP_AUDIT],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        sys.exit(NO_NETWORK.format(f"{PIP_AUDIT} cannot be installed. {_last_line(done.stderr)}"))
    (FOLDER / PIP_AUDIT).touch()


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["No reason was given."])[-1]


def main() -> None:
    install()
    # Pins name every package, what they bring included: nothing is resolved, and nothing installed.
    options = [
        "--no-deps",
        "--disable-pip",
        "--progress-spinner",
        "off",
        "-f",
        "json",
        "-r",
        "constraints.txt",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        sys.exit(NO_NETWORK.format(_last_line(done.stderr)))
    sys.exit(judge(packages))


def judge(packages: list[dict[str, Any]]) -> str | int:
    """Says what is known of each; the sentence or status to end with. What nobody was asked about is not well."""
    found = [(package, flaw) for package in packages for flaw in package.get("vulns", [])]
    for package, flaw in found:
        mended = ", ".join(flaw.get("fix_versions", [])) or "none yet"
        say(f"{package['name']} {package['version']}: {flaw['id']} (mended in: {mended})")
    if unasked := [package["name"] for package in packages if "vulns" not in package]:
        return NO_NETWORK.format(
            f"{len(unasked)} of {len(packages)} packages could not be asked about, such as {unasked[0]}."
        )
    say(f"{len(packages)} packages were asked about; {len(found)} flaws are known.")
    return 1 if found else 0


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
