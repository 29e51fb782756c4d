"""Template tags of the data pages: sizes, states, shares, names of steps. Knows nothing of requests."""

from __future__ import annotations

from typing import Any

from django import template
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from training import data_words, overview, sizes
from training.forms import LAYOUTS, SHAPES, RecipeForm
from training.models import DatasetVersion, DataWork, SourceFile

register = template.Library()
register.filter("said", data_words.said)
register.filter("code_name", data_words.code_name)

_TONES = {
    SourceFile.State.UPLOADING: "busy",
    SourceFile.State.DETECTING: "busy",
    SourceFile.State.UNREADABLE: "danger",
    SourceFile.State.READY: "success",
    DatasetVersion.State.BUILDING: "busy",
    DatasetVersion.State.FAILED: "danger",
}


@register.filter
def size(value: int) -> str:
    return sizes.spoken_size(value)


@register.filter
def number(value: int) -> str:
    return number_format(value, force_grouping=True)


@register.simple_tag
def state(row: SourceFile | DatasetVersion) -> SafeString:
    """Its state: a word with a dot."""
    tones: dict[str, str] = {str(name): tone for name, tone in _TONES.items()}
    return status(overview.Status(row.get_state_display(), tones.get(row.state, "")))


@register.simple_tag
def status(shown: overview.Status) -> SafeString:
    tone = f" dot-{shown.tone}" if shown.tone else ""
    return format_html('<span class="status-word"><span class="dot{}"></span> {}</span>', tone, shown.word)


@register.filter
def layout_name(reading: dict[str, Any] | None) -> str:
    return str(LAYOUTS.get(reading["layout"], reading["layout"])) if reading else ""


@register.filter
def shape_name(reading: dict[str, Any] | None) -> str:
    return str(SHAPES.get(reading["shape"], reading["shape"])) if reading else ""


@register.filter
def kind_name(kind: str) -> str:
    return str(SHAPES.get(kind, kind))


@register.filter
def step_name(step: str) -> str:
    """A recipe's field, as its switch is called."""
    field = RecipeForm.base_fields.get(step)
    return str(field.label) if field is not None else {"split": _("Splits")}.get(step, step)


@register.filter
def doing(work: DataWork) -> str:
    """What is being done right now."""
    if work.state == DataWork.State.QUEUED:
        return _("waiting for a free worker")
    return overview.stage_name(work.stage)


@register.filter
def share(part: int, whole: int) -> str:
    """In per cent, with one digit where it would be nought."""
    if not whole:
        return ""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if 0 < percent < 1 else f"{percent:.0f} %"
