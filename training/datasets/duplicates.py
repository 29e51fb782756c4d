"""Which examples repeat others, exactly or nearly, and which belong together. Knows nothing of texts or files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.datasets.fingerprints import BANDS, MINIMA, Fingerprints, similarity

NEAR = 0.8  # from here on two texts are near-duplicates
# Texts made by a template share bands by the thousand, and are not alike. Of those with the same band a row is compared
# with those that stand next to it, the likeliest to be: with all of them where rows are few, and at least so many.
_BEFORE = 4  # among themselves, where what is alike is found by way of others too
_BESIDE = 8  # of the evaluation data, in either direction
_PAIRS_OF_A_BAND = 2**20  # are compared whatever they are
_PAIRS_AT_ONCE = 2**16
_BAND = np.uint64(32)  # bits of a place below the band's

Rows = npt.NDArray[np.int64]
Places = npt.NDArray[np.uint64]


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
        for one, other in _pairs_that_meet(_places(prints, rows, band), rows):
            apart = cluster[one] != cluster[other]
            one, other = one[apart], other[apart]
            alike = _alike(prints, one, prints, other)
            join(cluster, one[alike], other[alike])
    return Duplicates(same, cluster)


def find_overlap(prints: Fingerprints, evaluation: Fingerprints) -> npt.NDArray[np.bool_]:
    """Which rows are, exactly or nearly, among the evaluation's."""
    overlap = np.isin(prints.exact, evaluation.exact)
    if not len(evaluation):
        return overlap
    _, theirs = np.unique(evaluation.exact, return_index=True)  # one of each is enough
    for band in range(BANDS):
        places = _places(evaluation, theirs, band)
        order = np.argsort(places, kind="stable")
        rows = np.flatnonzero(~overlap)
        for row, other in _met_beside(_places(prints, rows, band), rows, places[order], theirs[order]):
            left = ~overlap[row]
            row, other = row[left], other[left]
            overlap[row[_alike(prints, row, evaluation, other)]] = True
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


def _places(prints: Fingerprints, rows: Rows, band: int) -> Places:
    """Where rows stand: by their band, and within it by the minima that follow, which are the same for what is alike as
    often as it is alike (an LSH forest, Bawa et al. 2005)."""
    at = (band + 1) % BANDS * (MINIMA // BANDS)
    following = np.ascontiguousarray(prints.sketches[rows, at : at + 4]).view(">u4").ravel()
    return (prints.bands[rows, band].astype(np.uint64) << _BAND) | following


def _pairs_that_meet(places: Places, rows: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Of rows with the same band, each with those that stand before it."""
    order = np.argsort(places, kind="stable")
    bands, rows = places[order] >> _BAND, rows[order]
    later = np.arange(len(rows))
    for step in range(1, 1 + max(_BEFORE, _PAIRS_OF_A_BAND // max(1, len(rows)))):
        later = later[later >= step]
        later = later[bands[later - step] == bands[later]]
        if not len(later):  # where there is none so far before it, there is none further
            break
        yield rows[later - step], rows[later]


def _met_beside(places: Places, rows: Rows, others: Places, other_rows: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Rows with those of the others (which are sorted) that have the same band and stand next to where they would."""
    bands, other_bands, last = places >> _BAND, others >> _BAND, len(others) - 1
    begin = np.searchsorted(others, places)
    most = max(_BESIDE, _PAIRS_OF_A_BAND // max(1, 2 * len(rows)))
    for steps in (range(most), range(-1, -most - 1, -1)):
        met = np.arange(len(rows))
        for step in steps:
            beside = begin[met] + step
            inside = np.clip(beside, 0, last)
            meets = (inside == beside) & (other_bands[inside] == bands[met])
            met = met[meets]
            if not len(met):
                break
            yield rows[met], other_rows[inside[meets]]


def _alike(one: Fingerprints, rows: Rows, other: Fingerprints, others: Rows) -> npt.NDArray[np.bool_]:
    """Which pairs are near-duplicates."""
    alike = np.empty(len(rows), bool)
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        alike[part] = (
            similarity(one.sketches.take(rows[part], axis=0), other.sketches.take(others[part], axis=0))
            >= NEAR
        )
    return alike
