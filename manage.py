#!/usr/bin/env python
"""Django's command line for this site."""

import importlib.util
import os
import sys
from pathlib import Path


def enter_environment() -> None:
    """Any Python may be asked: where it lacks what `make` installed, the one in .venv takes over."""
    if importlib.util.find_spec("django") is not None:
        return
    python = Path(__file__).resolve().parent / ".venv" / "bin" / "python"
    if not python.exists():
        sys.exit("flywheel: nothing is installed yet: run `make setup` first.")
    os.execv(python, [str(python), *sys.argv])  # noqa: S606


def main() -> None:
    enter_environment()
    os.umask(0o077)  # as of the processes: what a command makes first is the database, or holds secrets
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    from django.core.management import execute_from_command_line
    from django.db import DatabaseError

    from webapp.core import interpreter
    from webapp.env import SettingsError
    from webapp.ops import reader

    interpreter.begin()
    try:
        with reader.who_may_leave():
            execute_from_command_line(sys.argv)
    except SettingsError as error:
        sys.exit(f"flywheel: {error}")
    except DatabaseError:
        from webapp.ops.doctor import database

        if (wrong := database.wrong()) is None:
            raise
        sys.exit(f"flywheel: {wrong}")


if __name__ == "__main__":
    main()
