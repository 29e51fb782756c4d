"""What all examples of a pass begin with, computed once for all of them. Knows nothing of models.

The examples of a company tend to begin alike, with the same system message, which is much of a short one. A row of the
prefix is the same in each of them, since it sees nothing that comes later; its gradient is the sum of all of theirs.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from training.trainer.data import Batch

# Of a pass's tokens, the share that must be saved: attention to a prefix costs a little too.
_LEAST_SAVED = 0.05


def sharing_prefix(batch: Batch) -> Batch:
    """The same examples, with what all begin with as the first rows, once; as it was where that gains little.

    `lengths` are then those of what follows the prefix. No row that something is learnt from is shared.
    """
    count, tokens = len(batch.lengths), len(batch.ids)
    length = _common(batch)
    if (count - 1) * length < _LEAST_SAVED * tokens:
        return batch
    kept = batch.positions >= length
    kept[:length] = True  # of the first example
    place = kept.cumsum(0) - 1
    return replace(
        batch,
        ids=batch.ids[kept],
        positions=batch.positions[kept],
        lengths=[one - length for one in batch.lengths],
        rows=place[batch.rows],
        prefix=length,
    )


def _common(batch: Batch) -> int:
    """Tokens that all examples begin with, up to the first row that anything is learnt from."""
    starts = torch.tensor([0, *batch.lengths[:-1]], device=batch.ids.device).cumsum(0)
    least = min(min(batch.lengths), int(batch.positions[batch.rows].min()))
    first = batch.ids[starts.unsqueeze(1) + torch.arange(least, device=batch.ids.device)]
    same = (first == first[0]).all(dim=0)
    return int(same.long().cumprod(0).sum())
