"""Forms of webhooks. What makes a good name or address is decided in webhook_services.py."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webapp.api.webhook_events import TYPES
from webapp.api.webhook_services import MAX_URL


class WebhookForm(forms.Form):
    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=80,
        help_text=gettext_lazy("What it is for, such as “deploy new models”."),
    )
    url = forms.CharField(
        label=gettext_lazy("Address"),
        max_length=MAX_URL,
        widget=forms.URLInput(attrs={"placeholder": "https://"}),
        help_text=gettext_lazy(
            "Your server, which answers with a status of 200 to 299. It has to be on the public internet."
        ),
    )
    events = forms.MultipleChoiceField(
        label=gettext_lazy("What it is told"),
        choices=list(TYPES.items()),
        widget=forms.CheckboxSelectMultiple,
        required=False,
        initial=[type_ for type_ in TYPES if type_.endswith(("succeeded", "failed", "cancelled"))],
    )

    def clean_events(self) -> list[str]:
        events: list[str] = self.cleaned_data["events"]
        if not events:
            raise forms.ValidationError(_("Choose at least one."))
        return events


class SecretForm(forms.Form):
    keep_old = forms.BooleanField(
        label=gettext_lazy("The old one signs for another 24 hours, too"), required=False, initial=True
    )
