"""SECURITY.md names a test for each threat: every one of them exists."""

from __future__ import annotations

import re

from tests.services import ROOT


def test_every_test_that_the_security_policy_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 30
    assert named - set(re.findall(r"def (test_\w+)", sources)) == set()


def test_every_threat_of_the_security_policy_names_a_test() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    assert len(rows) > 60
    assert [row for row in rows if not re.search(r"`test_\w+`[^|]*\|$", row)] == []
