"""The form that adds a passkey, in our words, and what every form that takes a passkey's answer checks first."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from allauth.mfa.webauthn import forms as allauth_forms
from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from fido2.webauthn import AuthenticationResponse, RegistrationResponse


class AddPasskeyForm(allauth_forms.AddWebAuthnForm):
    passwordless = forms.BooleanField(
        label=gettext_lazy("Log in with it alone, without the password"),
        help_text=gettext_lazy(
            "It then asks for your fingerprint, face or PIN. Without this it is a second step."
        ),
        required=False,
        initial=True,
    )


def refuse_malformed_credentials() -> None:
    """allauth's forms hand whatever JSON they get to the parser, which raises more than they catch."""
    forms_and_parsers: tuple[tuple[type[forms.Form], Callable[[Any], object]], ...] = (
        (allauth_forms.AuthenticateWebAuthnForm, AuthenticationResponse.from_dict),
        (allauth_forms.AddWebAuthnForm, RegistrationResponse.from_dict),
    )
    for form, parse in forms_and_parsers:
        # The forms derived from these share their field.
        field = form.declared_fields["credential"]
        assert isinstance(field, forms.JSONField)
        field.decoder = _Decoder
        field.validators.append(_Parses(parse))


class _Decoder(json.JSONDecoder):
    """Says of a number too long and of nesting too deep, too, that it is no JSON."""

    def decode(self, s: str, *args: Any) -> Any:
        try:
            return super().decode(s, *args)
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError("not understood", s[:20], 0) from error


class _Parses:
    def __init__(self, parse: Callable[[Any], object]) -> None:
        self._parse = parse

    def __call__(self, credential: Any) -> None:
        try:
            self._parse(credential)
        except Exception as error:
            raise forms.ValidationError(_("Your passkey's answer could not be read. Try again.")) from error
