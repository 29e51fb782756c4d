"""Which split an example is in. Knows nothing of texts: only of what may not be torn apart.

What nearly repeats something, or is of the same conversation or person, stays with it. An example that has neither is
placed by the hash of itself and the salt, so that it stays where it is whatever else comes into the data or leaves it.
Two things come before that: the shares are kept where much belongs together, and every label is learnt from.
"""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.datasets.duplicates import join
from training.datasets.recipe import Split

TRAIN, VALIDATION, TEST = 0, 1, 2
_LARGE = 20  # groups of more than one in so many of the smallest split are no longer left to chance


def keys_of_groups(
    exact: npt.NDArray[np.uint64], cluster: npt.NDArray[np.int64], groups: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Of each row a key, the same for what may not be torn apart: that of its smallest member, in whichever order they
    come. `exact` is its fingerprint, `cluster` the first row that it nearly repeats, perhaps by way of others, and
    `groups` the hash of its group's name, or 0."""
    whole = cluster.copy()
    named = np.flatnonzero(groups)
    _, first, inverse = np.unique(groups[named], return_index=True, return_inverse=True)
    join(whole, named[first[inverse]], named)
    smallest = np.full(len(whole), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, whole, np.where(groups > 0, groups, exact))
    return smallest[whole]


class Labels(NamedTuple):
    """Which rows have which labels: a row with several is there several times."""

    rows: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]  # group_hash of the label, 0 of none at all


NO_LABELS = Labels(np.empty(0, np.int64), np.empty(0, np.uint64))


def split_rows(
    keys: npt.NDArray[np.uint64], split: Split, labels: Labels = NO_LABELS
) -> npt.NDArray[np.uint8]:
    """The split of each row, by what it may not be torn from. Depends on no order."""
    together, group_of, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    places = np.array([_place(split.salt, key) for key in together.tolist()])
    splits = np.select(
        [places < split.test, places < split.test + split.validation], [TEST, VALIDATION], TRAIN
    ).astype(np.uint8)
    _deal_large(splits, sizes, places, split)
    _learn_each_label(splits, places, group_of[labels.rows], labels.hashes)
    if len(splits) and not (splits == TRAIN).any():
        splits[np.argmax(places)] = TRAIN  # Something has to be learnt.
    return splits[group_of]


def _deal_large(
    splits: npt.NDArray[np.uint8],
    sizes: npt.NDArray[np.int64],
    places: npt.NDArray[np.float64],
    split: Split,
) -> None:
    """Of a few large groups chance makes a third of the data where a tenth was asked for. They go to wherever most is
    missing, the largest first."""
    shares = {TRAIN: 1 - split.validation - split.test, VALIDATION: split.validation, TEST: split.test}
    asked = [name for name, share in shares.items() if share > 0]
    few = min(shares[name] for name in asked) * sizes.sum() / _LARGE
    large = np.flatnonzero((sizes > 1) & (sizes > few))
    if len(asked) == 1 or not len(large):
        return
    missing = {name: shares[name] * int(sizes.sum()) for name in asked}
    small = np.ones(len(sizes), bool)
    small[large] = False
    for name in asked:
        missing[name] -= int(sizes[small & (splits == name)].sum())
    for group in sorted(large.tolist(), key=lambda group: (-sizes[group], places[group])):
        name = max(asked, key=missing.__getitem__)
        splits[group] = name
        missing[name] -= int(sizes[group])


def _learn_each_label(
    splits: npt.NDArray[np.uint8],
    places: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int64],
    labels: npt.NDArray[np.uint64],
) -> None:
    """Of a label that no example to learn from has, the group that was nearest to being one becomes one. `groups`: of
    each of the labels, the group that has it."""
    held = ~np.isin(labels, labels[splits[groups] == TRAIN])
    groups, labels = groups[held], labels[held]
    nearest = np.lexsort((-places[groups], labels))
    _, first = np.unique(labels[nearest], return_index=True)
    splits[groups[nearest[first]]] = TRAIN


def group_hash(name: str) -> int:
    """Of a group's name; 0 where it has none."""
    return (
        int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()) or 1
        if name
        else 0
    )


label_hash = functools.lru_cache(maxsize=4096)(group_hash)


def _place(salt: str, key: int) -> float:
    """In [0, 1)."""
    digest = hashlib.sha256(f"{salt}\n{key:016x}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
