"""Servers of their own for deployed sites: PostgreSQL as a throw-away cluster where the test run has none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import settings

from tests.deploy.deployed_site import DeployedSite
from tests.deploy.nginx import nginx_binary
from tests.postgres import Cluster, binaries

ALICE = {"name": "Alice", "email": "alice@example.org", "password": "correct horse 1", "workspace": "Acme"}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a database on a PostgreSQL server."""
    if settings.TEST_SERVER:
        yield settings.TEST_SERVER
        return
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: install the package postgresql, or set TEST_DATABASE_URL")
    cluster = Cluster()
    yield cluster.url("postgres")
    cluster.stop()


@pytest.fixture(scope="session")
def nginx() -> str:
    """Its program."""
    found = nginx_binary()
    if found is None:
        pytest.skip("nginx is not installed: install the package nginx")
    return found


@pytest.fixture(scope="session")
def deployed_site(postgres_server: str, nginx: str) -> Iterator[DeployedSite]:
    """One for all tests, of the scripted engine. Set up by Alice, with the code that its operator gives her."""
    site = DeployedSite(postgres_server)
    try:
        site.start()
        code = site.manage("setupcode").strip()
        with site.client() as browser:
            assert str(browser.get("/").url).endswith("/setup/")
            assert site.submit(browser, "/setup/", **ALICE, code=code).status_code == 200
            assert site.session_cookie in browser.cookies
        yield site
    finally:
        site.end()
