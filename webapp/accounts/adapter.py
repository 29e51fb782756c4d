"""Where allauth asks us: who may sign up, what a new person gets, how sessions end, what happens to mail."""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.usersessions.adapter import DefaultUserSessionsAdapter
from django.conf import settings
from django.contrib import messages
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webapp.accounts.audit import client_ip, record_audit
from webapp.accounts.joining import may_sign_up, settle
from webapp.accounts.models import User
from webapp.core.errors import UserError

if TYPE_CHECKING:
    from allauth.account.models import EmailAddress
    from allauth.socialaccount.models import SocialLogin
    from allauth.usersessions.models import UserSession

logger = logging.getLogger(__name__)


class _Place(NamedTuple):
    """What mail templates say of the site."""

    name: str
    domain: str


class AccountAdapter(DefaultAccountAdapter):
    error_messages = DefaultAccountAdapter.error_messages | {
        "email_password_mismatch": gettext_lazy("That email address and password do not belong together."),
        "email_taken": gettext_lazy("That address cannot be used here. If it is yours, log in instead."),
        "incorrect_code": gettext_lazy(
            "That code is not right. Codes change every 30 seconds: try the newest one."
        ),
        "incorrect_password": gettext_lazy("That is not your password."),
        "enter_current_password": gettext_lazy("That is not your current password."),
        "too_many_login_attempts": gettext_lazy("Too many attempts. Wait five minutes, then try again."),
        "rate_limited": gettext_lazy("Too many attempts. Wait a minute, then try again."),
        "same_as_current": gettext_lazy("That is the one you have already."),
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return may_sign_up(request)

    def get_client_ip(self, request: HttpRequest) -> str:
        # A server behind a Unix socket knows no address; limits per address then count everyone as one.
        return client_ip(request) or "0.0.0.0"  # noqa: S104

    def is_safe_url(self, url: str | None) -> bool:
        try:
            return bool(super().is_safe_url(url))
        except ValueError:  # "http://[" is no address at all
            return False

    def confirm_email(self, request: HttpRequest, email_address: EmailAddress) -> bool:
        try:
            with transaction.atomic():
                return bool(super().confirm_email(request, email_address))
        except IntegrityError:
            # Since the mail was sent, somebody else signed up with the address.
            others = User.objects.exclude(pk=email_address.user_id)
            if not others.filter(email__iexact=email_address.email).exists():
                raise
        self.add_message(
            request,
            messages.ERROR,
            "account/messages/email_confirmation_failed.txt",
            {"email": email_address.email},
        )
        return False

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("profile")

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        if self.request is not None and settings.SITE_URL_GIVEN:
            # A link in a mail leads to this site whatever Host its sender's request was made up with.
            asked, ours = self.request.build_absolute_uri("/"), f"{settings.SITE_URL}/"
            context = {
                name: ours + value.removeprefix(asked)
                if isinstance(value, str) and value.startswith(asked)
                else value
                for name, value in context.items()
            }
            host = urlsplit(settings.SITE_URL).netloc
            context["current_site"] = _Place(name=host, domain=host)
        try:
            super().send_mail(template_prefix, email, context)
        except (OSError, smtplib.SMTPException) as error:
            logger.exception("Mail could not be sent")
            raise UserError(
                "mail_failed",
                _(
                    "We could not send you an email just now. Try again later, or tell the person who runs this site."
                ),
                status=503,
            ) from error


class SocialAccountAdapter(DefaultSocialAccountAdapter):
    def populate_user(self, request: HttpRequest, sociallogin: SocialLogin, data: dict[str, Any]) -> User:
        user: User = super().populate_user(request, sociallogin, data)
        parts = (data.get("first_name"), data.get("last_name"))
        user.name = (data.get("name") or " ".join(part for part in parts if part))[:80]
        return user

    @transaction.atomic
    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        user: User = super().save_user(request, sociallogin, form)
        settle(user=user, request=request)
        return user


class SessionsAdapter(DefaultUserSessionsAdapter):
    def end_sessions(self, sessions: Iterable[UserSession]) -> None:
        for session in sessions:
            record_audit(action="session_ended", actor=session.user, request=self.request)
            session.end()


class MFAAdapter(DefaultMFAAdapter):
    error_messages = DefaultMFAAdapter.error_messages | {
        "incorrect_code": gettext_lazy(
            "That code is not right. Codes change every 30 seconds: try the newest one."
        ),
        "unverified_email": gettext_lazy("Confirm your email address first: it is how you get back in."),
        "add_email_blocked": gettext_lazy("Turn two-factor login off first, then change your address."),
    }

    def generate_authenticator_name(self, user: User, type: str) -> str:
        kept = Authenticator.objects.filter(user=user, type=type).count()
        return _("Passkey %(number)s") % {"number": kept + 1} if kept else _("Passkey")
