"""This machine's clock beside those of the database and the broker. Knows nothing of either."""

from __future__ import annotations

import time
from collections.abc import Iterator

from webapp.ops.doctor.finding import Finding, warning

# Leases go by one clock (see `webapp.core.clock`), but what beat sends expires after ten seconds of whoever runs it.
MOST_SECONDS = 5.0


def skew(subject: str, whose: str, theirs: float) -> Iterator[Finding]:
    """`theirs`: seconds since 1970."""
    ahead = time.time() - theirs
    if abs(ahead) > MOST_SECONDS:
        yield warning(
            subject,
            f"This machine's clock is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} {whose.lower()}.",
            "Keep all clocks right with chrony or systemd-timesyncd: timedatectl set-ntp true.",
        )
