"""What stays of a person's choice of columns once their file is read otherwise. Knows nothing of how it is read."""

from __future__ import annotations

from collections.abc import Sequence

from training.datasets.codes import shown
from training.datasets.sources import Detected, Reading


def keep_columns(found: Detected, asked: Reading, before: Sequence[str]) -> None:
    """In `found`, which was looked into as `asked`: the columns of that which the file still has, and for the others
    what was guessed. `before`: those they were chosen from, where these are the same ones under other names."""
    if found.reading is None or not found.columns:
        return
    now_called = dict(zip(before, found.columns, strict=True)) if len(before) == len(found.columns) else {}
    kept, lost = dict[str, str](), list[str]()
    for field, column in asked.columns.items():
        # In a table a name may hold a dot; elsewhere what is behind it lies within the field.
        if not column or column in found.columns or column.partition(".")[0] in found.columns:
            kept[field] = column
        elif column in now_called:
            kept[field] = now_called[column]
        else:
            lost.append(column)
    guessed = found.reading.columns if lost or not asked.columns else {}
    taken = set(kept.values())
    found.reading.columns = {field: name for field, name in guessed.items() if name not in taken} | kept
    if lost:
        found.notices.append(
            f"It has no column called {shown(', '.join(lost), 200)} any more: check which field is which."
        )
