"""A benchmark whose peer cannot be had goes on, and its row says why."""

from __future__ import annotations

import sys

import pytest

from tests.load.peers import Unavailable, json_of
from tests.load.throughput import compare


def test_a_row_without_its_peer_says_why_and_reaches_no_target() -> None:
    row = compare("engine.decode.16.llamacpp", 100.0, Unavailable("It could not be installed."))
    assert row.as_json() == {
        "name": "engine.decode.16.llamacpp", "ours": 100.0, "peer": None, "unit": "tokens/s", "ratio": 0.0,
        "target": 1.6, "note": "It could not be installed.",
    }  # fmt: skip


def test_a_row_with_its_peer_is_their_ratio_and_needs_no_note() -> None:
    assert compare("engine.decode.16.llamacpp", 100.0, 50.0).as_json() == {
        "name": "engine.decode.16.llamacpp", "ours": 100.0, "peer": 50.0, "unit": "tokens/s", "ratio": 2.0,
        "target": 1.6,
    }  # fmt: skip


def test_a_peer_that_fails_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unavailable, match="status 3"):
        json_of(
            "llamacpp",
            [sys.executable, "-c", "import sys; print('no such GGUF', file=sys.stderr); sys.exit(3)"],
        )
    assert "no such GGUF" in capsys.readouterr().out
    assert json_of("llamacpp", [sys.executable, "-c", "print('loading'); print('[1.5]')"]) == [1.5]
