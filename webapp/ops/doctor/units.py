"""This machine's systemd units, where it has any: whether they wait for what they end. Knows nothing of their files."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

from django.conf import settings

from webapp.ops import start
from webapp.ops.doctor.finding import Finding, warning

# What systemd writes spans of time in; what is shorter than a second does not matter here.
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_HEEDING = ("web", "inference")  # STOP_GRACE_SECONDS


def check() -> Iterator[Finding]:
    for unit, waits in _waiting_times():
        needed = start.site()[unit.removeprefix("flywheel-").partition("@")[0]].stop_seconds
        if waits <= needed:
            # For all units (flywheel-.service.d), it would also shorten the time a training job is saved in.
            template = re.sub(r"@.*\.", "@.", unit)
            yield warning(
                "units",
                f"With STOP_GRACE_SECONDS={settings.STOP_GRACE_SECONDS}, {unit} needs {needed} s to end, and systemd "
                f"kills it after {waits}.",
                f"Set TimeoutStopSec={needed + 5} or more in /etc/systemd/system/{template}.d/grace.conf, and "
                "run systemctl daemon-reload; or lower STOP_GRACE_SECONDS.",
            )


def _waiting_times() -> Iterator[tuple[str, int]]:
    """Each unit's seconds from SIGTERM to SIGKILL, as far as there is an end to them."""
    if not shutil.which("systemctl"):
        return
    patterns = [f"flywheel-{role}@*.service" for role in _HEEDING]
    asked = ["systemctl", "show", "--property=Id", "--property=TimeoutStopUSec", *patterns]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return  # systemd is not what runs this machine, or is busy
    for unit in done.stdout.split("\n\n"):
        said = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
        spans = re.findall(r"(\d+)(s|min|h|d|w)\b", said.get("TimeoutStopUSec", ""))
        if spans and "Id" in said:
            yield said["Id"], sum(int(number) * _SECONDS[span] for number, span in spans)
