"""The forms that take an authenticator app's code, to log in and to show again who is there: a code works once."""

from __future__ import annotations

import re

from allauth.mfa.adapter import get_adapter
from allauth.mfa.base import forms as allauth_forms
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.core.cache import cache

# Seconds: the codes before and after the one that is shown are taken, too (MFA_TOTP_TOLERANCE).
_VALID = 30 * (2 * settings.MFA_TOTP_TOLERANCE + 1)


class _TakesEachCodeOnce(allauth_forms.BaseAuthenticateForm):
    """allauth remembers what was used while a code is shown, which is shorter than it is valid (RFC 6238, 5.2)."""

    authenticator: Authenticator

    def clean_code(self) -> str:
        code: str = super().clean_code()
        digits = re.sub(r"[^0-9]", "", code)  # spaces and hyphens are not looked at
        used = f"used_code:{self.authenticator.pk}:{digits}"
        if self.authenticator.type == Authenticator.Type.TOTP and not cache.add(used, True, _VALID):
            self._emit_authentication_failed(self.authenticator)
            raise get_adapter().validation_error("incorrect_code")
        return code


class AuthenticateForm(_TakesEachCodeOnce, allauth_forms.AuthenticateForm):
    pass


class ReauthenticateForm(_TakesEachCodeOnce, allauth_forms.ReauthenticateForm):
    pass
