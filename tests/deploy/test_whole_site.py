"""All of deploy/ at once: a person's way through a site of two web processes and two inference workers behind the TLS
proxy, with the commands and the environment of compose.yaml."""

from __future__ import annotations

import pytest

from tests.deploy.deployed_site import DeployedSite

pytestmark = pytest.mark.faults


def test_start(deployed_site: DeployedSite) -> None:
    with deployed_site.client() as client:
        assert client.get("/healthz").status_code == 200
