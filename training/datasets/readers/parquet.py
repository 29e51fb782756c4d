"""Parquet, batch by batch. Knows nothing of what columns mean."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

import msgspec
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
        called = _label_names(file.schema_arrow.metadata)
        line, rows = 0, max(1, file.metadata.num_rows)
        for batch in file.iter_batches(_BATCH, use_threads=False):
            columns = [_cells(column) for column in batch.columns]
            for cells in zip(*columns, strict=True):
                line += 1
                value = dict(zip(batch.schema.names, cells, strict=True))
                for name, labels in called.items():
                    value[name] = _named(value.get(name), labels)
                yield Row(line, {name: _plain(cell) for name, cell in value.items()}, size * line // rows)


def _cells(column: pyarrow.Array) -> list[object]:
    try:
        return column.to_pylist()
    except (ValueError, KeyError, OverflowError):  # times that Python cannot tell: nanoseconds, years, zones
        return column.cast(pyarrow.string()).to_pylist()


def _label_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """What labels are called that Hugging Face's datasets keep as numbers, by column."""
    try:
        features = msgspec.json.decode((metadata or {})[b"huggingface"])["info"]["features"]
        told = {name: feature.get("feature", feature) for name, feature in features.items()}
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in told.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}  # nobody has said so


def _named(cell: object, labels: list[str]) -> object:
    """-1 stands for none there."""
    if isinstance(cell, list):
        return [_named(each, labels) for each in cell]
    if not isinstance(cell, int):
        return cell
    return labels[cell] if 0 <= cell < len(labels) else None if cell == -1 else cell


def _plain(cell: object) -> object:
    """Only what JSON has. Fields that a list's items do not have are null in Parquet, and left out."""
    if isinstance(cell, dict):
        return {str(name): _plain(value) for name, value in cell.items() if value is not None}
    if isinstance(cell, list | tuple):  # tuples: a map's pairs
        return [_plain(value) for value in cell]
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if cell is None or isinstance(cell, str | int | float | bool):
        return cell
    return str(cell)
