"""The form that makes an API key. What a person may give a key is decided in api_keys.py."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webapp.accounts.models import Membership, Scope

EXPIRIES = (
    ("30", gettext_lazy("In 30 days")),
    ("90", gettext_lazy("In 90 days")),
    ("365", gettext_lazy("In a year")),
    ("never", gettext_lazy("Never")),
)


class KeyForm(forms.Form):
    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=80,
        help_text=gettext_lazy("What will use it, such as “shop assistant”. One key for each program."),
    )
    scopes = forms.MultipleChoiceField(
        label=gettext_lazy("What it may do"), widget=forms.CheckboxSelectMultiple, required=False
    )
    expiry = forms.ChoiceField(label=gettext_lazy("Expires"), choices=EXPIRIES, initial="90")

    def __init__(self, *args: Any, actor: Membership, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        scopes = self.fields["scopes"]
        assert isinstance(scopes, forms.MultipleChoiceField)
        # What is everybody's to do, and for admins the rest.
        scopes.choices = Scope.choices if actor.is_admin else [(Scope.CHAT.value, Scope.CHAT.label)]
        scopes.initial = [Scope.CHAT.value]
        if not actor.is_admin:
            scopes.help_text = _("Keys for data, fine-tunes and administration are made by admins.")

    def clean_name(self) -> str:
        name = " ".join(self.cleaned_data["name"].split())
        if not name.isprintable():
            raise forms.ValidationError(_("A name cannot contain control characters."))
        return name

    def clean_scopes(self) -> list[str]:
        scopes: list[str] = self.cleaned_data["scopes"]
        if not scopes:
            raise forms.ValidationError(_("Choose at least one."))
        return scopes

    @property
    def expires_at(self) -> datetime | None:
        """Of a valid form: when the key ends; None for never."""
        days = self.cleaned_data["expiry"]
        return None if days == "never" else timezone.now() + timedelta(days=int(days))
