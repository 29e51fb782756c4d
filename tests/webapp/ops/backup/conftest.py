"""A site to back up, one to restore to, and where backups appear."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import new_site
from tests.services import Site
from tests.webapp.ops.backup.kept import add_adapter, add_training


@pytest.fixture(scope="session")
def kept_site() -> Iterator[Site]:
    """A site with something of everything that is kept."""
    site = new_site()
    try:
        site.start()
        site.create_owner()
        (site.home / "models").mkdir(exist_ok=True)
        (site.home / "models" / "scripted").write_text("a base model")
        add_adapter(site, size=40 * 2**20)
        add_training(site)
        site.key = site.manage("createkey", "--email", "alice@example.org").strip()  # type: ignore[attr-defined]
        yield site
    finally:
        site.stop()


@pytest.fixture
def to(tmp_path: Path) -> Iterator[Path]:
    """Where backups appear. They are large, and do not stay."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def other_site() -> Iterator[Site]:
    """Nothing yet, on another database of the same kind."""
    site = new_site()
    yield site
    site.stop()
