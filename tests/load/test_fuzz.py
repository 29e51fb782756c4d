"""The fuzz of the API in short."""

from __future__ import annotations

import pytest

from tests.load.fuzz import fuzz
from tests.services import Site
from tests.webapp.api.live_clients import outsider

pytestmark = pytest.mark.load


@pytest.mark.parametrize("with_key", [True, False])
def test_made_up_requests_get_what_the_document_says(live_site: Site, with_key: bool) -> None:
    # Somebody's with a workspace of their own: what they do to it disturbs no other test.
    key = outsider(live_site) if with_key else None
    # This site's engine says 50 tokens a second, and as many as a made-up max_tokens wants.
    slow = r"/(completions|responses|messages|conversations)$"
    outcome = fuzz(live_site, key, examples=2, seed=1, phases="fuzzing", without=slow)
    assert outcome.failures == []
    assert outcome.cases > 40
