"""What a trainer says of a classifier it made, for its row: what pages can draw, or it is refused.

Knows no database, and not what is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from training.trainer.evaluation import Classification, Regression
from webapp.core.plain_files import read_plain

_MOST = 2**26  # bytes


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """None where there is none. Raises OSError, and ValueError where it is no evaluation."""
    try:
        found = msgspec.json.decode(read_plain(folder, "evaluation.json", most=_MOST), type=dict[str, Any])
    except FileNotFoundError:
        return None
    msgspec.convert(found, Regression if found.get("task") == "regression" else Classification)
    return found
