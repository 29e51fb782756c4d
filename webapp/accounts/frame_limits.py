"""How fast one socket may talk. Knows nothing of sockets: it is told the time and answers yes or no."""

from __future__ import annotations


class TokenBucket:
    """Allows `burst` at once and `rate` a second after that."""

    __slots__ = ("burst", "level", "rate", "updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst, self.level, self.updated = rate, burst, burst, now

    def take(self, now: float) -> bool:
        self.level = min(self.burst, self.level + (now - self.updated) * self.rate)
        self.updated = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class FrameLimit:
    """Answers each frame with "ok", "warn" (drop, and say so once), "drop" or "close".

    What exceeds 50 frames a second is dropped. Dropping costs too, so it has a budget of its own: a client
    that sends 1,000 a second has spent it within about a second, one that is merely too eager (150 a second)
    never does.
    """

    __slots__ = ("_allowance", "_patience", "_warned")

    def __init__(self, now: float) -> None:
        self._allowance = TokenBucket(50, 100, now)
        self._patience = TokenBucket(100, 800, now)
        self._warned = False

    def judge(self, now: float) -> str:
        if self._allowance.take(now):
            # Half full again: the flood is over, and the next one is told anew.
            if self._allowance.level > self._allowance.burst / 2:
                self._warned = False
            return "ok"
        if not self._patience.take(now):
            return "close"
        if self._warned:
            return "drop"
        self._warned = True
        return "warn"
