"""Builds an image without Docker: the Dockerfile's own steps, into a fresh folder, and then what the image is for.

    python -m tests.deploy.image_steps web|worker-cpu|worker-cuda [FOLDER]      make image-steps

Paths such as /opt/venv become paths below the folder. What only a container can do, users and system packages, is left
out and said. Takes minutes and a network, so the test suite has the short form, test_dockerfile.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.deploy.dockerfile import Instruction, environment_of, instructions_of, stages
from tests.live_site import ROOT
from webapp.ops.broker import free_port

# Of the folders the Dockerfile names, those that processes see; longest first.
_PLACES = ("/var/lib/flywheel", "/opt/venv", "/build", "/app")
_CONTAINERS_ONLY = ("useradd", "apt-get")
CHECKS = {
    "it has no torch": "import importlib.util as u; assert u.find_spec('torch') is None",
    "the web process is imported": "import webapp.asgi",
    "a backup knows by which version it is made": (
        "from webapp.ops.backup.manifest import flywheel_version as v; assert v() != 'unknown'"
    ),
    "every task by the clock is done": """
import django, sys
from webapp.celery import app
django.setup()
app.loader.import_default_modules()
from django.conf import settings
for entry in settings.CELERY_BEAT_SCHEDULE.values():
    app.tasks[entry["task"]].apply(throw=True)
assert "torch" not in sys.modules
""",
}
WORKER_CHECKS = {
    "it has torch": "import torch; print(torch.__version__)",
    "the engine, the trainer and the readers are imported": (
        "import django, os; os.environ['DJANGO_SETTINGS_MODULE'] = 'webapp.settings'; django.setup();"
        "import inference.worker, inference.engine.loader, training.trainer.command, training.data_worker,"
        "training.training_worker, training.search"
    ),
}


class Image:
    """The files of one target, below `root`."""

    def __init__(self, target: str, root: Path) -> None:
        self.target, self.root = target, root
        for place in ("/bin", "/tmp", *_PLACES):
            self.path(place).mkdir(parents=True, exist_ok=True)
        # What the image the first stage begins with has: a `python`.
        python = self.path("/bin") / "python"
        python.symlink_to(Path(sys.executable).resolve())
        self.path("/opt/venv").rmdir()

    def path(self, there: str) -> Path:
        return self.root / there.lstrip("/")

    def here(self, text: str) -> str:
        """Absolute paths of the image as such of this machine."""
        places = "|".join(map(re.escape, (*_PLACES, "/tmp")))
        return re.sub(rf"(?<![\w.}}/])({places})(?![\w.-])", lambda found: f"{self.root}{found[1]}", text)

    def environment(self, stage: str) -> dict[str, str]:
        """Nothing of ours but what finds programs, the network and package indexes."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "SSL_", "HTTP", "http"))
        }
        own = {name: self.here(value) for name, value in environment_of(stage).items()}
        path = f"{own.pop('PATH')}{self.path('/bin')}:{os.environ['PATH']}"
        return {**kept, "LANG": "C.UTF-8", **own, "PATH": path, "TMPDIR": str(self.path("/tmp"))}

    def build(self) -> None:
        """Every step of the target and of the stages it copies from."""
        for copied in dict.fromkeys(
            each.flags.get("from", "") for each in instructions_of(self.target, "COPY")
        ):
            if copied:
                self._run_steps(copied)
        self._run_steps(self.target)

    def _run_steps(self, target: str) -> None:
        workdir, arguments = "/", dict[str, str]()
        for step in instructions_of(target, "ARG", "WORKDIR", "COPY", "RUN"):
            if step.name == "ARG":
                name, _, value = step.text.partition("=")
                arguments[name] = os.environ.get(name, value)
            elif step.name == "WORKDIR":
                workdir = step.text
            elif step.name == "COPY":
                self._copy(step, workdir)
            elif any(program in step.text.split() for program in _CONTAINERS_ONLY):
                say(f"line {step.line}: left out, a container's: {step.text}")
            else:
                say(f"line {step.line}: {step.text}")
                environment = self.environment(target) | arguments
                subprocess.run(
                    ["/bin/sh", "-ec", self.here(step.text)],
                    cwd=self.path(workdir),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    check=True,
                )

    def _copy(self, step: Instruction, workdir: str) -> None:
        *sources, destination = step.words
        target = self.path(str(Path(workdir) / destination))
        if "from" in step.flags:
            assert self.path(sources[0]) == target, "stages share their folders here"
            assert target.exists(), step.text
            return
        for source in sources:
            into = target / Path(source).name if destination.endswith("/") else target
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, into, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, into)

    def run(self, *command: str, **environment: str) -> None:
        """As in a container of the image: its user's folder, its environment."""
        subprocess.run(
            command,
            cwd=self.path("/app"),
            env=self.environment(self.target) | environment,
            stdin=subprocess.DEVNULL,
            check=True,
        )

    def written(self) -> set[Path]:
        """Files where the root of a container is read-only."""
        return {path for place in ("/app", "/opt/venv") for path in self.path(place).rglob("*")}


@contextlib.contextmanager
def served(image: Image, **environment: str) -> Iterator[str]:
    """The image's own command, while it answers."""
    command = instructions_of(image.target, "CMD")[-1].command
    process = subprocess.Popen(
        command,
        cwd=image.path("/app"),
        env=image.environment(image.target) | environment,
        stdin=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{environment['PORT']}"
    try:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/healthz", timeout=5).close()
                break
            assert process.poll() is None, "it ended"
            assert time.monotonic() < end, "it does not answer"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def say(line: str) -> None:
    print(line, flush=True)


def check(image: Image) -> None:
    """What the image is for. Raises subprocess.CalledProcessError and AssertionError."""
    from tests.services import Valkey

    before = image.written()
    broker = Valkey(image.path("/tmp") / "broker").start()
    site = {"REDIS_URL": broker.url, "HOST": "127.0.0.1", "PORT": str(free_port())}
    try:
        image.run("python", "manage.py", "migrate_locked", **site)
        image.run("python", "manage.py", "check", **site)
        for what, program in (CHECKS if image.target == "web" else WORKER_CHECKS).items():
            image.run("python", "-c", program, **site)
            say(f"{image.target}: {what}")
        if image.target == "web":
            with served(image, **site) as url:
                page = urllib.request.urlopen(f"{url}/setup/", timeout=30).read().decode()
                for asset in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
                    urllib.request.urlopen(f"{url}{asset}", timeout=30).close()
            say("web: a page and all that belongs to it are served")
    finally:
        broker.kill()
    new = image.written() - before
    assert not new, f"written outside the state folder: {sorted(new)[:5]}"
    say(f"{image.target}: nothing was written outside the state folder and /tmp")


def main(target: str, folder: str = "") -> None:
    if target not in stages():
        sys.exit(f"no such target: {target}")
    with contextlib.ExitStack() as stack:
        root = Path(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="fwimage"))).resolve()
        image = Image(target, root)
        image.build()
        check(image)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    main(*sys.argv[1:])
