"""Fingerprints of evaluation data, for what must not be trained on. Knows nothing of evaluating."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from training.datasets.examples import Example
from training.datasets.fingerprints import Fingerprints, fingerprints_of
from training.datasets.frozen import read_split
from training.datasets.problems import DataError
from training.datasets.progress import Progress
from training.datasets.shards import parts_of, records_of

_BATCH = 512


def evaluation_fingerprints(paths: Sequence[Path], progress: Progress) -> Fingerprints:
    """Of files of frozen splits (test.jsonl), and of folders of records. Raises DataError `dataset_broken`."""
    prints: list[Fingerprints] = []
    for number, path in enumerate(paths):
        examples = _examples(path)
        while batch := list(islice(examples, _BATCH)):
            prints.append(fingerprints_of(batch))
            progress("comparing", number, len(paths))
    return Fingerprints.joined(prints)


def _examples(path: Path) -> Iterator[Example]:
    try:
        if path.is_dir():
            for part in parts_of(path):
                yield from (record.example for _, record in records_of(part))
        else:
            yield from read_split(path.parent, path.stem)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            "dataset_broken", f"The evaluation data in {path.name} cannot be read: {error}."
        ) from error
