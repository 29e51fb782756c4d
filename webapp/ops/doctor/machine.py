"""This machine: disk, memory, open files, GPU, static files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from django.conf import settings
from django.contrib.staticfiles import finders

from training import confinement
from webapp.core.full_disk import is_full
from webapp.ops import room
from webapp.ops.doctor.finding import Finding, first_line, ok, problem, refusal, warning

GIGABYTE = 1e9
# Below these not even a start's own files fit.
FULL_DISK, FULL_ENTRIES = 32e6, 100
# Every process of the site together holds about 1 GB besides the model.
OVERHEAD = 1.0 * GIGABYTE
LEAST_FILES = 4096
# The kernel's own word for it, which containers without GPUs see too.
DRIVER = Path("/proc/driver/nvidia/version")


def check() -> Iterator[Finding]:
    yield from disk()
    yield from temporary_files()
    yield from memory()
    yield from open_files()
    yield gpu()
    yield from landlock()
    yield from static_files()


def disk() -> Iterator[Finding]:
    home = settings.FLYWHEEL_HOME
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        where = os.statvfs(home)
        free, size, entries = where.f_bavail * where.f_frsize, where.f_blocks * where.f_frsize, where.f_favail
        probe = home / f".probe.{os.getpid()}"
        try:
            probe.write_bytes(b"x" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        advice = "Free some space." if is_full(error) else "Set FLYWHEEL_HOME to a folder you own."
        yield refusal("disk", f"{home} cannot be written ({error.strerror}).", advice)
        return
    said = f"{free / GIGABYTE:.1f} GB are free where {home} lies."
    if free < FULL_DISK or (where.f_files and entries < FULL_ENTRIES):
        yield refusal(
            "disk",
            f"The disk where {home} lies is full ({free / 1e6:.0f} MB and {entries} files are left).",
            "Free some space: the database and the broker stop when it is used up, and nothing more would be kept.",
        )
    elif free < room.LEAST_DISK:
        yield problem("disk", said, "Free some space: the database and the broker stop when it is used up.")
    elif room.is_short_of_disk(free=free, size=size):
        yield warning("disk", said, "A larger model or a backup may not fit.")
    else:
        yield ok("disk", said)


def temporary_files() -> Iterator[Finding]:
    """Where uploads wait."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < settings.API_MAX_UPLOAD_MB * 2**20:
        yield warning(
            "disk",
            f"{free / 1e6:,.0f} MB are free in {folder}, less than one upload of API_MAX_UPLOAD_MB may need.",
            "Free some space there, or set TMPDIR to a larger folder.",
        )


def memory() -> Iterator[Finding]:
    from django.db import DatabaseError

    from inference.models import ServedModel

    total = psutil.virtual_memory().total
    try:
        largest = max((model.parameters for model in ServedModel.objects.filter(is_default=True)), default=0)
    except DatabaseError:
        largest = 0
    # Two bytes a weight, as bf16 has; more in fp32, less in int8.
    needed = largest * 2 + OVERHEAD
    said = f"This machine has {total / GIGABYTE:.1f} GB of memory"
    if total < needed:
        yield warning(
            "memory",
            f"{said}; the default model needs about {needed / GIGABYTE:.1f} GB.",
            "Choose a smaller model.",
        )
    else:
        yield ok("memory", f"{said} and {os.cpu_count()} cores.")


def open_files() -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < LEAST_FILES:
        yield warning(
            "open files",
            f"At most {most} files may be open, one for each socket.",
            "Raise `ulimit -n` to 65536.",
        )


def gpu() -> Finding:
    """Asked of the driver's own program: this command must work where torch is not installed."""
    if not shutil.which("nvidia-smi"):
        if DRIVER.exists():
            return ok("gpu", "This machine has an NVIDIA driver; its GPUs are not seen from here.")
        if settings.INFERENCE_DEVICE == "cuda":
            return warning(
                "gpu",
                "INFERENCE_DEVICE asks for a GPU, but this machine has no NVIDIA driver: a worker here loads no model.",
                "Set INFERENCE_DEVICE=auto, or install the driver.",
            )
        return ok("gpu", "No NVIDIA GPU: models run on the CPU.")
    try:
        asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return warning("gpu", f"nvidia-smi does not answer: {first_line(error)}", "Look at the GPU's driver.")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[:1] or ["no reason given"]
        return warning(
            "gpu", f"nvidia-smi fails: {said[0]}", "Look at the GPU's driver; until then the CPU is used."
        )
    return ok("gpu", "GPU: " + "; ".join(done.stdout.strip().splitlines()))


def landlock() -> Iterator[Finding]:
    if not confinement.is_possible():
        yield warning(
            "security",
            "This kernel has no Landlock: a file that takes over what reads it, or a training job, could read the "
            "site's secrets.",
            "Use Linux 5.19 or newer; where that is so, add landlock to the kernel's parameter lsm=.",
        )


def static_files() -> Iterator[Finding]:
    # A file of a dependency: where it is missing, the installation is not whole.
    if finders.find("django_htmx/django-htmx.js") is None:
        yield problem(
            "static files",
            "The pages' scripts are not installed.",
            "Install the dependencies again: make setup",
        )
