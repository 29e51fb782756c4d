"""The end of the last form: several jobs instead of one, as a search for settings or as a cross-validation."""

from __future__ import annotations

from typing import Any, NamedTuple

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from training.job_forms import PROMPTLESS
from training.knob_fields import KNOBS, choices_of, label_of
from training.models import Job
from training.search_services import MOST_FOLDS, MOST_TRIALS
from training.search_space import MOST_KNOBS, Space, is_number, is_whole, why_not
from training.trainer.spec import RANGES

ROWS = range(1, MOST_KNOBS + 1)
_FIRST_ROWS = 3  # those that are seen; the others are behind a word
_USUAL_TRIALS = 12
# From here on a range is looked through in powers: 0.00001, 0.0001, 0.001.
_POWERS = 10


class _KnobField(forms.ChoiceField):
    """Says why a knob is not offered."""

    def validate(self, value: str) -> None:
        if value and not self.valid_value(value) and (why := why_not(value)):
            name = label_of(value) if value in KNOBS else value
            raise forms.ValidationError(
                gettext("%(name)s cannot be searched for: %(why)s") % {"name": name, "why": f"{why}."}
            )
        super().validate(value)


class Row(NamedTuple):
    """One knob that is searched for."""

    number: int
    knob: forms.BoundField
    low: forms.BoundField
    high: forms.BoundField


class SearchForm(forms.Form):
    trials = forms.IntegerField(
        label=_("Trials"), min_value=2, max_value=MOST_TRIALS, initial=_USUAL_TRIALS, required=False,
        help_text=_("Each is a fine-tune of its own, one after the other."),
    )  # fmt: skip

    def __init__(self, data: Any = None, *, task: str, knobs: list[str], initial: dict[str, Any]) -> None:
        """`knobs`: those that mean something for the task and the method."""
        super().__init__(data, initial=initial)
        asked = [name for name in KNOBS if name in knobs or (name, task) == ("size", Job.Task.SCRATCH)]
        refused = {name: why for name in asked if (why := why_not(name))}
        named = [("", "—"), *((name, label_of(name)) for name in asked if name not in refused)]
        self.refused = [(label_of(name), why) for name, why in refused.items()]
        for row in ROWS:
            self.fields[f"knob_{row}"] = _KnobField(label=_("Setting"), choices=named, required=False)
            self.fields[f"low_{row}"] = forms.FloatField(label=_("From"), required=False)
            self.fields[f"high_{row}"] = forms.FloatField(label=_("To"), required=False)
        if task in PROMPTLESS:
            self.fields["folds"] = forms.IntegerField(
                label=_("Parts"), min_value=2, max_value=MOST_FOLDS, required=False,
                help_text=_("Empty: it learns from the training split once, as it was frozen."),
            )  # fmt: skip

    @property
    def rows(self) -> list[Row]:
        return [Row(row, self[f"knob_{row}"], self[f"low_{row}"], self[f"high_{row}"]) for row in ROWS]

    @property
    def first_rows(self) -> list[Row]:
        return self.rows[:_FIRST_ROWS]

    @property
    def more_rows(self) -> list[Row]:
        return self.rows[_FIRST_ROWS:]

    @property
    def is_more_open(self) -> bool:
        return any(row.knob.value() or row.knob.errors for row in self.more_rows)

    @property
    def is_search_open(self) -> bool:
        """Whether something stands in the first disclosure, or is wrong with it."""
        return any(row.knob.value() for row in self.rows) or bool({*self.errors} - {"folds"})

    @property
    def is_folds_open(self) -> bool:
        return "folds" in self.fields and (bool(self["folds"].value()) or "folds" in self.errors)

    def clean(self) -> dict[str, Any]:
        clean = self.cleaned_data
        taken: set[str] = set()
        for row in ROWS:
            name = clean.get(f"knob_{row}")
            if name:
                if name in taken:
                    self.add_error(f"knob_{row}", gettext("This is chosen twice."))
                elif is_number(KNOBS[name]):
                    self._clean_limits(row, name)
                taken.add(name)
        if taken and clean.get("folds"):
            self.add_error(
                "folds", gettext("Search first, and cross-validate what you found: not both at once.")
            )
        return clean

    def _clean_limits(self, row: int, name: str) -> None:
        low, high = self.cleaned_data.get(f"low_{row}"), self.cleaned_data.get(f"high_{row}")
        least, most = RANGES[name]
        for field, value in ((f"low_{row}", low), (f"high_{row}", high)):
            if field in self.errors:
                return
            if value is None:
                self.add_error(field, gettext("Say from where to where."))
            elif not least <= value <= most:
                between = {"low": f"{least:g}", "high": f"{most:g}"}
                self.add_error(field, gettext("From %(low)s to %(high)s.") % between)
            elif is_whole(KNOBS[name]) and value != int(value):
                self.add_error(field, gettext("Enter a whole number."))
        if low is not None and high is not None and low >= high:
            self.add_error(f"high_{row}", gettext("This must be more than where it begins."))

    def space(self) -> Space:
        """Empty where there is nothing to search for."""
        found: Space = {}
        for row in ROWS:
            name = self.cleaned_data[f"knob_{row}"]
            if name and is_number(KNOBS[name]):
                low, high = self.cleaned_data[f"low_{row}"], self.cleaned_data[f"high_{row}"]
                found[name] = {"low": low, "high": high, "log": low > 0 and high >= _POWERS * low}
            elif name:
                found[name] = {"choices": choices_of(KNOBS[name])}
        return found
