"""Pictures of numbers: SVG without scripts or styles of its own, drawn in the page's colours. Knows no database."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from django.utils.formats import number_format
from django.utils.safestring import SafeString, mark_safe

from training.datasets.report import Histogram

if TYPE_CHECKING:
    from pygal.graph.graph import Graph

# What pygal adds for its own script and style sheet, which our content security policy would refuse; and what its
# script would show in a tooltip, which the table beside the picture says.
_UNWANTED = ("defs", "script", "style", "title", "desc")
_MOST_LABELS = 6


def histogram(found: Histogram) -> SafeString:
    """A bar for each bin, all as wide as each other; every so many are labelled with where they begin."""
    import pygal  # here: hardly a page has a picture

    highest = max(found.counts, default=0)
    chart = pygal.Bar(
        width=720, height=220, margin=8, margin_left=64, margin_bottom=32, spacing=0, show_legend=False,
        show_minor_x_labels=False, truncate_label=-1,
        y_labels=sorted({0, highest // 2, highest}), explicit_size=False, js=[], value_formatter=whole,
    )  # fmt: skip
    starts = [whole(edge) for edge in found.edges[: len(found.counts)]]
    step = max(1, -(-len(starts) // _MOST_LABELS))
    chart.x_labels, chart.x_labels_major = starts, starts[::step]
    chart.add("", found.counts)
    return bare(chart)


def bare(chart: Graph) -> SafeString:
    """The chart as the page's style sheet draws it. The same numbers give the same text."""
    root = chart.render_tree()
    for parent in list(root.iter()):
        for child in list(parent):
            if (
                not isinstance(child.tag, str)
                or child.tag in _UNWANTED
                or "-overlay" in child.get("class", "")
            ):
                parent.remove(child)
    del root.attrib["id"]  # made by chance, for the script
    # What is drawn is said in words beside it.
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    return mark_safe(ElementTree.tostring(root, encoding="unicode"))  # noqa: S308 - every text in it is escaped


def whole(value: float) -> str:
    """Small numbers keep what tells them apart."""
    digits = 0 if value == int(value) or abs(value) >= 10 else 2
    return number_format(round(value, digits), digits, force_grouping=True)
