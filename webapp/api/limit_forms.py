"""The form of four limits. Knows nothing of whose they are."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from webapp.accounts.limit_rules import NAMES, RANGES, Limits

_HELP = {
    "requests_per_minute": _("Messages and calls, of any sixty seconds."),
    "tokens_per_minute": _(
        "Prompts and answers together. An answer counts with its longest until it has ended."
    ),
    "concurrent_streams": _("That wait or are being written."),
    "monthly_tokens": _("Of a calendar month, in UTC."),
}


class LimitsForm(forms.Form):
    """Empty fields are no limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, (low, high) in RANGES.items():
            self.fields[name] = forms.IntegerField(
                label=NAMES[name],
                help_text=_HELP[name],
                required=False,
                min_value=low,
                max_value=high,
                widget=forms.NumberInput(attrs={"placeholder": _("No limit"), "inputmode": "numeric"}),
            )

    @property
    def limits(self) -> Limits:
        return Limits(**self.cleaned_data)
