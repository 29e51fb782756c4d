"""supervisord under us: its configuration, its start, what it says, its end. Knows nothing of what it runs.

supervisord restarts what dies. It is told to stop by SIGTERM and then stops its groups by priority: the site first,
the broker last, since everything else needs it to finish well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from webapp.core.tether import tether
from webapp.ops.processes import Process

BROKER = "broker"
_MEGABYTE = 2**20
# prctl(2): orphans of a dead child become ours instead of init's, so that we can find and end them.
_PR_SET_CHILD_SUBREAPER = 36
_EVENTS = (
    (re.compile(r"INFO spawned: '(?P<name>[^']+)' with pid"), "started"),
    (re.compile(r"exited: (?P<name>\S+) \((?P<detail>.*); not expected\)"), "crashed"),
    (re.compile(r"exited: (?P<name>\S+) \((?P<detail>.*); expected\)"), "crashed"),
    (re.compile(r"gave up: (?P<name>\S+) entered FATAL"), "gave_up"),
    (re.compile(r"spawnerr: (?P<detail>.*)"), "crashed"),
)


@dataclass(frozen=True)
class Event:
    """Something supervisord said of a process: "started", "crashed" or "gave_up"."""

    kind: str
    name: str
    detail: str = ""


def configuration(home: Path, directory: Path, site: Sequence[Process], broker: Process | None) -> str:
    """supervisord.conf: `site` is one group that stops together, before the broker does."""
    lines = [
        "[supervisord]",
        "nodaemon=true",
        "identifier=flywheel",
        f"logfile={_escape(home / 'logs' / 'supervisord.log')}",
        "logfile_maxbytes=5MB",
        "logfile_backups=2",
        f"pidfile={_escape(home / 'run' / 'supervisord.pid')}",
    ]
    if os.geteuid() == 0:
        lines.append("user=root")
    for process in [*([broker] if broker else []), *site]:
        lines += ["", *_program(home, directory, process)]
    # A higher priority starts later and stops earlier.
    lines += [
        "",
        "[group:site]",
        f"programs={','.join(process.name for process in site)}",
        "priority=900",
        "",
    ]
    return "\n".join(lines)


def _program(home: Path, directory: Path, process: Process) -> list[str]:
    command = ["nice", "-n", str(process.nice), *process.command] if process.nice else list(process.command)
    return [
        f"[program:{process.name}]",
        f"command={_escape(shlex.join([*tether(), *command]))}",
        f"directory={_escape(directory)}",
        "priority=100",
        "autostart=true",
        "autorestart=true",
        "startsecs=3",
        # The pause between two tries grows by a second each: a full disk or a database that is away for an
        # hour must not leave a process given up for good.
        "startretries=100",
        f"stopwaitsecs={process.stop_seconds}",
        "killasgroup=true",
        "umask=077",
        "redirect_stderr=true",
        f"stdout_logfile={_escape(home / 'logs' / f'{process.name}.log')}",
        f"stdout_logfile_maxbytes={10 * _MEGABYTE}",
        "stdout_logfile_backups=3",
    ]


def _escape(value: object) -> str:
    return str(value).replace("%", "%%")


class Supervisor:
    """A running supervisord and all its descendants."""

    def __init__(self, home: Path, keep_open: Sequence[int] = ()) -> None:
        """`keep_open`: file descriptors that live as long as supervisord does, such as a lock's."""
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with (home / "logs" / "supervisord.err").open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *tether(),
                    sys.executable,
                    "-m",
                    "supervisor.supervisord",
                    "-c",
                    str(home / "supervisord.conf"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                # Ctrl-C goes to the terminal's process group; the order of stopping is ours to decide.
                start_new_session=True,
                pass_fds=keep_open,
                text=True,
                errors="replace",
            )

    def events(self) -> Iterator[Event]:
        """What supervisord says, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            for pattern, kind in _EVENTS:
                if found := pattern.search(line):
                    groups = found.groupdict()
                    yield Event(kind, groups.get("name", ""), groups.get("detail", ""))
                    break

    def stop(self) -> None:
        """Asks supervisord to stop everything in order."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def finish(self, seconds: float) -> None:
        """Waits for the end, and ends whatever is left after `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        end_descendants()


def end_descendants(patience: float = 3.0) -> None:
    """Ends every process below this one: SIGTERM, then SIGKILL."""
    left = psutil.Process().children(recursive=True)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(left, timeout=patience)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=patience)
