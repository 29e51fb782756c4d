"""`python -m webapp.ops.start ROLE`: becomes one of the site's processes, as containers and systemd have it.

It is replaced by the process itself, under the same process id: who sends SIGTERM is heard, and the exit status is the
process's own. Settings are read, but no Django is set up: the process does that, once.

Where it was started by a link to a release, as `current`, the process is of that release for good: what it imports
later, and the processes it starts, are of the folder that the link led to.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from django.conf import settings

from webapp.env import SettingsError
from webapp.ops import processes
from webapp.ops.processes import Process

# Thousands of sockets; the default of most systems is 1,024 files.
OPEN_FILES = 65_536


def site(suffix: str = "") -> dict[str, Process]:
    """The processes of a whole site by their roles, as the settings say; `suffix` is of the workers' names."""
    return {
        "web": processes.web(
            host=settings.HOST,
            port=settings.PORT,
            processes=settings.WEB_PROCESSES,
            proxied=settings.SITE_URL_GIVEN,
            grace=settings.STOP_GRACE_SECONDS,
        ),
        "inference": processes.inference(f"inference{suffix}", grace=settings.STOP_GRACE_SECONDS),
        "training": processes.training(f"training{suffix}", grace=settings.STOP_GRACE_SECONDS),
        "worker": processes.worker(f"worker{suffix}"),
        "data": processes.data(f"data{suffix}"),
        "beat": processes.beat(settings.FLYWHEEL_HOME),
    }


def raise_open_files() -> None:
    """As many files as are of use, or as this system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


def own_python() -> str:
    """This interpreter, in the folder where it lies: beside it are its packages. It may be a link itself."""
    python = Path(sys.executable)
    return str(python.parent.resolve() / python.name)


def main(arguments: list[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    # What people write ends up in uploads and the database: nobody else on this machine reads those.
    os.umask(0o077)
    try:
        # Several workers of a role may run on one host, and Celery wants a name for each.
        known = site(suffix=f"-{os.getpid()}")
        for folder in ("run", "static"):
            (settings.FLYWHEEL_HOME / folder).mkdir(parents=True, exist_ok=True)
    except SettingsError as error:
        sys.exit(f"flywheel: {error}")
    except OSError as error:
        sys.exit(
            f"flywheel: {error.filename} cannot be made ({error.strerror}): set FLYWHEEL_HOME to a folder you own."
        )
    if len(arguments) != 1 or arguments[0] not in known:
        sys.exit(f"usage: python -m webapp.ops.start {'|'.join(known)}")
    process = known[arguments[0]]
    raise_open_files()
    os.nice(process.nice)
    os.chdir(settings.ROOT)
    os.execv(own_python(), (own_python(), *process.command[1:]))  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
