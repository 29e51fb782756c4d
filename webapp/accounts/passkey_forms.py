"""The form that adds a passkey, in our words."""

from __future__ import annotations

from allauth.mfa.webauthn import forms as allauth_forms
from django import forms
from django.utils.translation import gettext_lazy


class AddPasskeyForm(allauth_forms.AddWebAuthnForm):
    passwordless = forms.BooleanField(
        label=gettext_lazy("Log in with it alone, without the password"),
        help_text=gettext_lazy(
            "It then asks for your fingerprint, face or PIN. Without this it is a second step."
        ),
        required=False,
        initial=True,
    )
