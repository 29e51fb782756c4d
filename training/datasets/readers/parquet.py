"""Parquet, batch by batch. Knows nothing of what columns mean."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet

from training.datasets.limits import MAX_COLUMNS
from training.datasets.problems import DataError
from training.datasets.readers.rows import Row, Rows

_BATCH = 256  # rows


def read_parquet(path: Path) -> Rows:
    size = path.stat().st_size
    # The system's allocator, so that a limit on memory is a limit and not a crash.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    with pyarrow.parquet.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
        if len(file.schema_arrow) > MAX_COLUMNS:
            raise DataError("file_too_complex", f"It has more than {MAX_COLUMNS} columns.")
        line, rows = 0, max(1, file.metadata.num_rows)
        for batch in file.iter_batches(_BATCH, use_threads=False):
            for value in batch.to_pylist():
                line += 1
                yield Row(line, {name: _plain(cell) for name, cell in value.items()}, size * line // rows)


def _plain(cell: object) -> object:
    """Only what JSON has. Fields that a list's items do not have are null in Parquet, and left out."""
    if isinstance(cell, dict):
        return {str(name): _plain(value) for name, value in cell.items() if value is not None}
    if isinstance(cell, list):
        return [_plain(value) for value in cell]
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if cell is None or isinstance(cell, str | int | float | bool):
        return cell
    return str(cell)
