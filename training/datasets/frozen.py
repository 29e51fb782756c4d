"""A frozen dataset on disk: train.jsonl, validation.jsonl, test.jsonl and manifest.json. Knows nothing of Django.

Each line is an Example. Beside them, train.groups and so on have 8 bytes for each line: the same ones for what nearly
repeats another, is of the same conversation or person, or was made of the same example. No fold tears it apart.
The content hash is the SHA-256 over the kind and the hashes of the three files of examples, so it names exactly these
examples in exactly this order in exactly these splits.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from training.datasets.examples import Example, Kind
from training.datasets.problems import DataError
from training.datasets.recipe import Effect, Recipe

SPLITS = ("train", "validation", "test")
FORMAT = 1
_BLOCK = 8 * 2**20
_MAX_LINE = 64 * 2**20
_decoder: msgspec.json.Decoder[Example] = msgspec.json.Decoder(Example)


class SplitInfo(msgspec.Struct):
    examples: int
    sha256: str
    groups: str = ""  # the SHA-256 of what belongs together; datasets frozen long ago do not say it


class Manifest(msgspec.Struct):
    format: int
    kind: Kind
    content_hash: str
    parent: str  # the content hash it was made from, or the SHA-256 over the sources
    recipe: Recipe
    splits: dict[str, SplitInfo]
    effects: list[Effect]
    labels: list[str] = []  # all of them, sorted, where examples are labelled


def content_hash(kind: Kind, splits: dict[str, SplitInfo]) -> str:
    whole = hashlib.sha256(f"flywheel-dataset-{FORMAT}\n{kind}\n".encode())
    for split in SPLITS:
        whole.update(f"{split} {splits[split].sha256}\n".encode())
    return whole.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError `dataset_broken`."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError("dataset_broken", f"The dataset in {folder.name} cannot be read: {error}.") from error
    if manifest.format != FORMAT or manifest.content_hash != content_hash(manifest.kind, manifest.splits):
        raise DataError("dataset_broken", f"The dataset in {folder.name} is not what its manifest says.")
    return manifest


def check_files(folder: Path, manifest: Manifest, beat: Callable[[], None]) -> None:
    """Whether the splits are what the manifest says; `beat` is called now and then.

    Raises DataError `dataset_broken`.
    """
    for split, info in manifest.splits.items():
        _check_file(folder / f"{split}.jsonl", info.sha256, beat)
        if info.groups:
            _check_file(folder / _groups_file(split), info.groups, beat)


def _check_file(path: Path, sha256: str, beat: Callable[[], None]) -> None:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
                beat()
    except OSError as error:
        raise DataError("dataset_broken", f"{path.name} of the dataset cannot be read: {error}.") from error
    if found.hexdigest() != sha256:
        raise DataError("dataset_broken", f"{path.name} of the dataset is not what was frozen.")


def write_groups(folder: Path, split: str, groups: array[int]) -> str:
    """A key for each example of a split, in order; answers their SHA-256."""
    data = _little_endian(groups).tobytes()
    (folder / _groups_file(split)).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_groups(folder: Path, split: str) -> array[int]:
    """Empty where the dataset does not say what belongs together. Raises DataError `dataset_broken`."""
    info = read_manifest(folder).splits[split]
    groups = array("Q")
    if info.groups:
        try:
            groups.frombytes((folder / _groups_file(split)).read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(
                "dataset_broken", f"{_groups_file(split)} of the dataset cannot be read: {error}."
            ) from error
        if len(groups) != info.examples:
            raise DataError("dataset_broken", f"{_groups_file(split)} of the dataset is not what was frozen.")
    return _little_endian(groups)


def _groups_file(split: str) -> str:
    return f"{split}.groups"


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def read_split(folder: Path, split: str) -> Iterator[Example]:
    """The examples of a split in order. Raises DataError `dataset_broken` at the first that cannot be read."""
    with (folder / f"{split}.jsonl").open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(_MAX_LINE), b""), 1):
            try:
                yield _decoder.decode(line)
            except msgspec.DecodeError as error:
                raise DataError(
                    "dataset_broken", f"Line {number} of {split}.jsonl cannot be read: {error}."
                ) from error
