"""Which split an example is in. Knows nothing of texts: only of what may not be torn apart.

What nearly repeats something, or is of the same conversation or person, stays with it. An example that has neither is
placed by the hash of itself and the salt, so that it stays where it is whatever else comes into the data or leaves it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from training.datasets.duplicates import join
from training.datasets.recipe import Split

TRAIN, VALIDATION, TEST = 0, 1, 2


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


def split_rows(keys: npt.NDArray[np.uint64], split: Split) -> npt.NDArray[np.uint8]:
    """The split of each row, by what it may not be torn from."""
    together, inverse = np.unique(keys, return_inverse=True)
    places = np.array([_place(split.salt, key) for key in together.tolist()])
    if len(places) and not (places >= split.test + split.validation).any():
        places[np.argmax(places)] = 1.0  # Something has to be learnt.
    places = places[inverse]
    return np.select(
        [places < split.test, places < split.test + split.validation], [TEST, VALIDATION], TRAIN
    ).astype(np.uint8)


def group_hash(name: str) -> int:
    """Of a group's name; 0 where it has none."""
    return (
        int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()) or 1
        if name
        else 0
    )


def _place(salt: str, key: int) -> float:
    """In [0, 1)."""
    digest = hashlib.sha256(f"{salt}\n{key:016x}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
