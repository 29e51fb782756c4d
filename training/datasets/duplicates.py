"""Which examples repeat others, exactly or nearly, and which belong together. Knows nothing of texts or files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.datasets.fingerprints import BANDS, Fingerprints, similarity

NEAR = 0.8  # from here on two texts are near-duplicates
_PAIRS_AT_ONCE = 2**16

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Duplicates:
    """Of each row the first that is the same, and the first of all that are nearly so, directly or by way of others."""

    same: Rows  # [n]
    cluster: Rows  # [n]; what is the same is in the same cluster

    @property
    def exact(self) -> npt.NDArray[np.bool_]:
        """Repeats an earlier one."""
        return self.same != np.arange(len(self.same))

    @property
    def near(self) -> npt.NDArray[np.bool_]:
        """Nearly repeats an earlier one, and is no exact repetition."""
        return (self.cluster != np.arange(len(self.cluster))) & ~self.exact


def find_duplicates(prints: Fingerprints) -> Duplicates:
    _, first, inverse = np.unique(prints.exact, return_index=True, return_inverse=True)
    same: Rows = first[inverse].astype(np.int64)
    cluster = same.copy()
    # One of each is enough, and keeps a text that is there a hundred thousand times from meeting itself.
    rows = np.flatnonzero(same == np.arange(len(same)))
    for band in range(BANDS):
        pairs = _pairs_that_meet(prints.bands[rows, band], rows)
        one, other = pairs[0], pairs[1]
        for start in range(0, len(one), _PAIRS_AT_ONCE):
            a, b = one[start : start + _PAIRS_AT_ONCE], other[start : start + _PAIRS_AT_ONCE]
            apart = cluster[a] != cluster[b]
            a, b = a[apart], b[apart]
            alike = similarity(prints.sketches[a], prints.sketches[b]) >= NEAR
            join(cluster, a[alike], b[alike])
    return Duplicates(same, cluster)


def find_overlap(prints: Fingerprints, evaluation: Fingerprints) -> npt.NDArray[np.bool_]:
    """Which rows are, exactly or nearly, among the evaluation's."""
    overlap = np.isin(prints.exact, evaluation.exact)
    for band in range(BANDS):
        theirs, first = np.unique(evaluation.bands[:, band], return_index=True)
        if not len(theirs):
            break
        place = np.minimum(np.searchsorted(theirs, prints.bands[:, band]), len(theirs) - 1)
        met = np.flatnonzero((theirs[place] == prints.bands[:, band]) & ~overlap)
        for start in range(0, len(met), _PAIRS_AT_ONCE):
            rows = met[start : start + _PAIRS_AT_ONCE]
            alike = similarity(prints.sketches[rows], evaluation.sketches[first[place[rows]]]) >= NEAR
            overlap[rows[alike]] = True
    return overlap


def join(root: Rows, one: Rows, other: Rows) -> None:
    """Joins the sets of each pair in place: `root` of each row is the smallest of its set, before and after.

    Union-find over whole arrays: roots are hooked below smaller roots until every pair has the same.
    """
    while len(one):
        a, b = root[one], root[other]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(above := root[root], root):
            root[:] = above
        apart = root[one] != root[other]
        one, other = one[apart], other[apart]


def _pairs_that_meet(keys: npt.NDArray[np.uint32], rows: Rows) -> tuple[Rows, Rows]:
    """Of rows with the same key, each with the one before it and with the first of them."""
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    meets = np.concatenate([[False], keys[1:] == keys[:-1]])
    places = np.arange(len(rows))
    first = np.maximum.accumulate(np.where(meets, 0, places))
    later = np.flatnonzero(meets)
    before, begin = later - 1, first[later]
    differs = before != begin
    one = np.concatenate([rows[before], rows[begin[differs]]])
    return one, np.concatenate([rows[later], rows[later[differs]]])
