"""An upgrade nobody notices: processes are restarted in turn while people and programs chat."""

from __future__ import annotations

import pytest

from tests.deploy.deployed_site import DeployedSite
from tests.deploy.rolling import roll

pytestmark = pytest.mark.faults


async def test_no_reply_is_lost_or_broken_off_while_processes_are_restarted_in_turn(
    deployed_site: DeployedSite,
) -> None:
    processes = ("web-a", "inference-1", "web-b", "inference-2")
    seen = await roll(deployed_site, people=4, programs=4, processes=processes, reply="tokens=40 rate=20")
    assert seen.wrong == []
    assert set(seen.states) == {"complete"}
    assert set(seen.exits.values()) <= {0, -15}
    assert seen.replies >= 4
    assert seen.answers >= 4
