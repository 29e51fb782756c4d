"""The demo model for tests: fetched once, verified, kept between runs, and linked into whoever asks."""

from __future__ import annotations

import fcntl
from pathlib import Path

from django.conf import settings

from inference.catalog import DEMO
from inference.installation import install


def demo_model(home: Path | None = None) -> Path:
    """The model's folder; with `home`, that of a site whose $FLYWHEEL_HOME it is."""
    cache: Path = settings.MODEL_CACHE
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = install(DEMO, cache / "models", progress=print, digest_cache=cache / "digests")
    if home is None:
        return folder
    linked = home / "models" / DEMO.name
    linked.parent.mkdir(parents=True, exist_ok=True)
    if not linked.exists():
        linked.symlink_to(folder)
    return linked
