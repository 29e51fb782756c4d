"""nginx with deploy/nginx/flywheel.conf.template, filled in as nginx's image and `envsubst` do."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from django.conf import settings

from tests.deploy.compose_file import DEPLOY

TEMPLATE = DEPLOY / "nginx" / "flywheel.conf.template"


@functools.cache
def nginx_binary() -> str | None:
    """The installed nginx, or Debian's unpacked beside the models of tests: installing it would start a server on
    port 80. None where there is neither."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    if found := shutil.which("nginx", path=path):
        return found
    cache: Path = settings.MODEL_CACHE / "nginx"
    unpacked = cache / "root" / "usr" / "sbin" / "nginx"
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not unpacked.exists():
            _unpack(cache)
    return str(unpacked) if unpacked.exists() and _runs(unpacked) else None


def _unpack(cache: Path) -> None:
    fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "nginx"]
    options = {"cwd": cache, "capture_output": True, "stdin": subprocess.DEVNULL}
    if subprocess.run(fetch, **options).returncode and os.geteuid() == 0:  # type: ignore[call-overload]
        subprocess.run(["apt-get", "update"], **options)  # type: ignore[call-overload]
        subprocess.run(fetch, **options)  # type: ignore[call-overload]
    for package in cache.glob("nginx_*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, cache / "root"], check=True)


def _runs(binary: Path) -> bool:
    return subprocess.run([binary, "-v"], capture_output=True).returncode == 0


def render(template: str, variables: Mapping[str, str]) -> str:
    """`${NAME}` for the names that are given; nginx's own `$names` stay."""
    return re.sub(r"\$\{(\w+)\}", lambda found: variables.get(found[1], found[0]), template)


def write_configuration(folder: Path, variables: Mapping[str, str]) -> Path:
    """A whole nginx.conf around the template, with everything it writes in `folder`."""
    (folder / "flywheel.conf").write_text(render(TEMPLATE.read_text(), variables))
    for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        (folder / name).mkdir(exist_ok=True)
    lines = [
        "daemon off;",
        # It is one process less, and started as root it would give up the rights that the test's folder needs.
        "master_process off;",
        f"pid {folder}/nginx.pid;",
        "error_log stderr warn;",
        "events { worker_connections 4096; }",
        "http {",
        f"    access_log {folder}/access.log;",
        f"    client_body_temp_path {folder}/body;",
        *(f"    {name}_temp_path {folder}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi")),
        f"    include {folder}/flywheel.conf;",
        "}",
    ]
    path = folder / "nginx.conf"
    path.write_text("\n".join(lines) + "\n")
    return path
