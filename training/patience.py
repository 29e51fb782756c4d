"""How long a trainer that is told to stop may go on saving, by what it is told for. Knows no job."""

from __future__ import annotations

import math
import time

from django.conf import settings

# What a trainer is stopped for: what a person wishes (`Job.Wish`), that its worker stops, that its hours are over.
CANCEL, PAUSE, RELEASE, HOURS = "cancel", "pause", "release", "hours"
# A person who cancels sees it within 15 seconds: so long a trainer has to save, and the rest is for hearing of it.
CANCEL_SECONDS = 12.0
# Who pauses wants all of it kept: of all weights and what their optimizer keeps that is gigabytes, for which a slow
# disk takes minutes, and several processes finish their pass first. Who does not want to wait cancels.
PAUSE_SECONDS = 600.0
# One that is silent for so long does not save, it hangs: it says every second or so that it gets on, but for a pass of
# several processes.
SILENT_SECONDS = 300.0


def seconds(reason: str) -> float:
    """Where its worker stops, as long as that may take: `webapp.ops.processes.training` waits a little longer."""
    if reason == RELEASE:
        return max(float(settings.STOP_GRACE_SECONDS), CANCEL_SECONDS)
    return CANCEL_SECONDS if reason == CANCEL else PAUSE_SECONDS


class Patience:
    """With one trainer."""

    def __init__(self) -> None:
        self._ends_at = math.inf
        self._reasons: set[str] = set()
        self._sign: object = None
        self._heard_at = 0.0

    def begin(self, *reasons: str) -> bool:
        """Whether it is to be told now: that is once, and what it has is the shortest time of all reasons there are."""
        was_told, now = bool(self._reasons), time.monotonic()
        for reason in {*reasons} - self._reasons:
            self._ends_at = min(self._ends_at, now + seconds(reason))
            self._heard_at = now
        self._reasons |= {*reasons}
        return bool(self._reasons) and not was_told

    def is_over(self, sign: object) -> bool:
        """`sign`: something that is another whenever the trainer has got on."""
        now = time.monotonic()
        if sign != self._sign:
            self._sign, self._heard_at = sign, now
        return bool(self._reasons) and (now > self._ends_at or now - self._heard_at > SILENT_SECONDS)
