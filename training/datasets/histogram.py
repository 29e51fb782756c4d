"""Counts numbers into a histogram. Knows nothing of what they mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.datasets.report import Histogram

_BINS = 24


def histogram_of(values: npt.NDArray[np.generic]) -> Histogram | None:
    """None of nothing. The last bin is as wide as the farthest percent needs."""
    if not len(values):
        return None
    numbers = values.astype(np.float64)
    low, high, largest = float(numbers.min()), float(np.percentile(numbers, 99)), float(numbers.max())
    edges = np.linspace(low, high, _BINS) if high > low else np.array([low])
    edges = np.append(edges, max(largest, edges[-1] + 1))
    counts, _ = np.histogram(numbers, edges)
    return Histogram(
        edges=edges.tolist(),
        counts=counts.tolist(),
        total=len(numbers),
        mean=float(numbers.mean()),
        median=float(np.median(numbers)),
        p95=float(np.percentile(numbers, 95)),
        largest=largest,
    )
