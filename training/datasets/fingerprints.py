"""A few bytes of each example that say whether two are the same or nearly so. Knows nothing of files or of models.

Nearness is the Jaccard similarity of the sets of five-character pieces of two texts, estimated by MinHash (Broder
1997): the same for every language, also for those that write no spaces. One byte is kept of each of the 128 minima
(b-bit minwise hashing, Li and König 2010), so that a million examples fit into 200 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rensa

from training.datasets.examples import Example
from training.datasets.texts import comparable_text, identity_of

MINIMA = 128
BANDS = 16  # of eight minima each: a pair 0.8 alike meets in one of them with 95 %, one 0.9 alike always
_PIECE = 5
_SEED = 1
_CHARACTERS_AT_ONCE = 2**18
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Fingerprints:
    exact: npt.NDArray[np.uint64]  # [n]: equal for equal examples
    bands: npt.NDArray[np.uint32]  # [n, BANDS]: what is alike is equal in one of these
    sketches: npt.NDArray[np.uint8]  # [n, MINIMA]: the share that agrees says how alike

    @classmethod
    def joined(cls, parts: Sequence[Fingerprints]) -> Fingerprints:
        parts = [_NONE, *parts]
        return cls(
            np.concatenate([part.exact for part in parts]),
            np.concatenate([part.bands for part in parts]),
            np.concatenate([part.sketches for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.exact)


_NONE = Fingerprints(np.empty(0, np.uint64), np.empty((0, BANDS), np.uint32), np.empty((0, MINIMA), np.uint8))


def similarity(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Of rows of sketches, pair by pair; bytes that agree by chance, one in 256, taken off."""
    agree = (one == other).view(np.uint8).sum(axis=1, dtype=np.uint8) / MINIMA
    return (agree - 1 / 256) / (1 - 1 / 256)


def fingerprints_of(examples: Sequence[Example]) -> Fingerprints:
    exact = np.array(
        [
            int.from_bytes(
                hashlib.blake2b(identity_of(e).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            )
            for e in examples
        ],
        np.uint64,
    )
    minima = [_minima(texts) for texts in _batches([comparable_text(e) for e in examples])]
    signatures = np.concatenate([np.empty((0, MINIMA), np.uint32), *minima])
    rows = signatures.reshape(-1, BANDS, MINIMA // BANDS)
    mixed = np.zeros(rows.shape[:2], np.uint64)
    for column in range(rows.shape[2]):
        mixed = (mixed + rows[:, :, column]) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return Fingerprints(exact, (mixed >> np.uint64(32)).astype(np.uint32), signatures.astype(np.uint8))


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > _CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _minima(texts: list[str]) -> npt.NDArray[np.uint32]:
    """[texts, MINIMA]"""
    hashes, offsets = _piece_hashes(texts)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, MINIMA, _SEED)
    return np.array(matrix.to_rows(), np.uint32)


def _piece_hashes(texts: list[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """A hash of every run of _PIECE characters of every text, one after another, and where each text's begin.

    A text shorter than that is one piece.
    """
    padding = "\0" * _PIECE  # so that an empty one has a piece, too, and not what follows it
    joined = "".join(text + padding for text in texts).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(joined, "<u4").astype(np.uint64)
    lengths = np.array([len(text) for text in texts])
    begins = np.cumsum(lengths + _PIECE) - (lengths + _PIECE)
    counts = np.maximum(lengths - (_PIECE - 1), 1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    windows = len(characters) - (_PIECE - 1)
    hashes = characters[:windows].copy()
    for place in range(1, _PIECE):
        hashes *= _MULTIPLIER
        hashes += characters[place : place + windows]
    # Only those within one text.
    hashes = hashes[np.repeat(begins - offsets[:-1], counts) + np.arange(offsets[-1])]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIXER
    hashes ^= hashes >> np.uint64(32)
    return hashes, offsets.astype(np.uint64)
