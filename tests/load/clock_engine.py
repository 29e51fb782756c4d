"""An engine whose words are times: token n of a reply says when it was made. What reads it can tell its lag.

Each token is `{milliseconds since the epoch modulo 10**8:08d} `; every twelfth ends a paragraph. Rate and length
as in tests.scripted_engine, which this builds on.
"""

from __future__ import annotations

import os
import time

from inference.models import ServedModel
from tests.scripted_engine import ScriptedEngine, _Sequence

MODULUS = 10**8


def clock() -> int:
    return int(time.time() * 1000) % MODULUS


class ClockEngine(ScriptedEngine):
    def _say(self, sequence: _Sequence) -> tuple[int, str, bool]:
        # Cheap, since it stands in for a model that would compute elsewhere than in the interpreter.
        sequence.position += 1
        return 7, f"{clock():08d}" + ("\n\n" if sequence.position % 12 == 0 else " "), False


def load(model: ServedModel, *, beside: object = None) -> ClockEngine:
    return ClockEngine(
        rate=float(os.environ.get("SCRIPTED_RATE", "25")),
        tokens=int(os.environ.get("SCRIPTED_TOKENS", "500")),
    )
