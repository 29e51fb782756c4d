"""Pictures of how a model learns and of how well a classifier does: XY charts in the page's colours. Knows no database.

Lines are told apart by more than colour: the style sheet draws the first thin, the second with dots, the third dashed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.utils.formats import number_format
from django.utils.safestring import SafeString

from training.charts import bare, whole

if TYPE_CHECKING:
    from pygal import XY

Points = Sequence[tuple[float, float]]
_TICKS = 5


def losses(train: Points, validation: Points, base: float | None) -> SafeString:
    """Loss by step: of training, of validation, and the base model's validation loss as a line across."""
    steps = [step for step, _loss in (*train, *validation)] or [0]
    values = [loss for _step, loss in (*train, *validation)] + ([base] if base is not None else []) or [0]
    # Steps are whole numbers: five of them at least, so that every tick is one.
    chart = _chart(ticks(min(steps), max(*steps, _TICKS)), ticks(min(values), max(values)))
    chart.add("", train, show_dots=False)
    chart.add("", validation)
    across = [(min(steps), base), (max(steps), base)] if base is not None else []
    chart.add("", across, show_dots=False)
    return bare(chart)


def trials(losses: Points, best: Points, wanted: int) -> SafeString:
    """Validation loss by trial, a dot for each of `wanted` that has one, and the best so far as a line."""
    values = [loss for _trial, loss in losses]
    chart = _chart(ticks(1, max(wanted, 1 + _TICKS)), ticks(min(values), max(values)))
    chart.add("", best, show_dots=False)
    chart.add("", losses, stroke=False)
    return bare(chart)


def roc(curves: Sequence[Points]) -> SafeString:
    """True positive rate by false positive rate, a line for each class, and the diagonal that chance would draw."""
    sides = [0, 0.25, 0.5, 0.75, 1]
    chart = _chart(sides, sides, height=480, width=480)
    chart.add("", [(0, 0), (1, 1)], show_dots=False)
    for curve in curves:
        chart.add("", curve, show_dots=False)
    return bare(chart)


def scatter(points: Points) -> SafeString:
    """What was predicted by what is true, and the diagonal of those that are right."""
    values = [value for point in points for value in point] or [0]
    sides = ticks(min(values), max(values))
    chart = _chart(sides, sides, height=480, width=480)
    chart.add("", [(sides[0], sides[0]), (sides[-1], sides[-1])], show_dots=False)
    chart.add("", points, stroke=False)
    return bare(chart)


def _chart(across: list[float], up: list[float], *, width: int = 720, height: int = 340) -> XY:
    import pygal  # here: hardly a page has a picture

    chart = pygal.XY(
        width=width, height=height, margin=8, margin_left=48, margin_bottom=0, show_legend=False, dots_size=3,
        truncate_label=-1, explicit_size=False, js=[], xrange=(across[0], across[-1]), range=(up[0], up[-1]),
        x_value_formatter=_short, value_formatter=_short,
    )  # fmt: skip
    chart.x_labels, chart.y_labels = across, up
    return chart


def ticks(low: float, high: float) -> list[float]:
    """A few round numbers from at most `low` to at least `high`."""
    span = (high - low) or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(span / _TICKS))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor * _TICKS >= span)
    first = math.floor(low / step)
    count = max(math.ceil(high / step) - first, 1)
    return [round((first + n) * step, 12) for n in range(count + 1)]


def _short(value: float) -> str:
    """ "0.25", "1.5", "1,200": as many digits as the number has, up to three."""
    value = round(value, 3)
    digits = next((n for n in range(3) if round(value, n) == value), 3)
    return number_format(value, digits, force_grouping=True) if digits else whole(value)
