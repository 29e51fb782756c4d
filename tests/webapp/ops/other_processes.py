"""Processes of a site that a test pretends to run."""

from __future__ import annotations

import pytest

from webapp.core import snapshots


def publish(kind: str, monkeypatch: pytest.MonkeyPatch, *, host: str = "gpu1", pid: int = 7) -> None:
    """Another process's figures, as it leaves them."""
    with monkeypatch.context() as other:
        other.setattr(snapshots.socket, "gethostname", lambda: host)
        other.setattr(snapshots.os, "getpid", lambda: pid)
        snapshots.Reporter(kind).publish()
