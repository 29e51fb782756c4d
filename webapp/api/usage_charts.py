"""Pictures of usage: a bar for each day, what was read below what was written. Knows no database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from django.utils.formats import date_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from training.charts import bare, whole
from training.job_charts import ticks

_MOST_LABELS = 6


def by_day(days: Sequence[date], read: Sequence[int], written: Sequence[int]) -> SafeString:
    """Tokens by day, stacked."""
    import pygal  # here: hardly a page has a picture

    highest = max((a + b for a, b in zip(read, written, strict=True)), default=0)
    up = ticks(0, max(highest, 1))
    chart = pygal.StackedBar(
        width=720, height=240, margin=8, margin_left=72, margin_right=32, margin_bottom=0, spacing=0, show_legend=False,
        show_minor_x_labels=False, truncate_label=-1, explicit_size=False, js=[], value_formatter=whole,
        range=(0, up[-1]),
    )  # fmt: skip
    # A date format: short, and in the language's order.
    labels = [date_format(day, _("M j")) for day in days]
    # The last day is today, or a month's end: it has its label, and the others stand evenly before it.
    step = max(1, -(-len(labels) // _MOST_LABELS))
    chart.x_labels, chart.x_labels_major = labels, labels[::-1][::step]
    chart.y_labels = up
    chart.add("", read)
    chart.add("", written)
    return bare(chart)
