"""What an engine's process holds does not grow with the variety of what it was asked."""

from __future__ import annotations

import gc

import psutil
import pytest
import torch

from inference.engine import allocator
from inference.engine.linear import Linear

_SIZES = range(33, 333)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="products are not oneDNN's here")
def test_code_for_products_of_three_hundred_sizes_is_not_all_kept() -> None:
    product = Linear.from_weight(torch.randn(96, 64), None, "fp32")
    allocator.give_back()
    before = psutil.Process().memory_info().rss
    for rows in _SIZES:
        product(torch.ones(rows, 64))
    gc.collect()
    allocator.give_back()
    # Some 0.6 MB each: a third of them are kept.
    assert psutil.Process().memory_info().rss - before < 0.4e6 * len(_SIZES)
