"""Which labels a classifier confuses most: a confusion matrix of very many labels as one that a screen can show.

Knows nothing of how it is drawn, nor of models. All counts stay exact: what is left out is summed up.
"""

from __future__ import annotations

from collections.abc import Sequence

from training.trainer.evaluation import Confused

MOST_SHOWN = 20


def most_confused(labels: Sequence[str], matrix: Sequence[Sequence[int]], most: int = MOST_SHOWN) -> Confused:
    """matrix [labels, labels]: rows are true, columns predicted. `most` labels stay, in their order: those that are
    most often taken for another, or another for them. There have to be more than that."""
    columns = [sum(column) for column in zip(*matrix, strict=True)]
    wrong = [
        sum(row) + column - 2 * row[n] for n, (row, column) in enumerate(zip(matrix, columns, strict=True))
    ]
    shown = sorted(sorted(range(len(labels)), key=lambda n: -wrong[n])[:most])
    left = {*range(len(labels))} - {*shown}
    counts = [_folded(matrix[n], shown) for n in shown]
    counts.append([sum(column) for column in zip(*(_folded(matrix[n], shown) for n in left), strict=True)])
    return Confused([labels[n] for n in shown], counts, len(left), sum(matrix[n][n] for n in left))


def _folded(row: Sequence[int], shown: Sequence[int]) -> list[int]:
    kept = [row[n] for n in shown]
    return [*kept, sum(row) - sum(kept)]
