"""What logins, logouts and allauth's own pages lead to: closed sockets and audit events."""

from __future__ import annotations

from functools import partial
from typing import Any

from allauth.account import signals as account_signals
from allauth.mfa import signals as mfa_signals
from allauth.mfa.models import Authenticator
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.http import HttpRequest

from webapp.accounts import sockets
from webapp.accounts.audit import record_audit
from webapp.accounts.models import User


@receiver(post_delete, sender=Session)
def on_session_deleted(sender: object, instance: Session, **kwargs: Any) -> None:
    # Every way a login session ends (logout, the sessions page, a new password) deletes its row. The message goes
    # out after that, so that a page which reconnects at once is not let in again.
    transaction.on_commit(partial(sockets.close_session, instance.session_key))


@receiver(user_logged_in)
def on_logged_in(sender: object, request: HttpRequest | None, user: User, **kwargs: Any) -> None:
    record_audit(action="login", actor=user, request=request)


@receiver(user_logged_out)
def on_logged_out(sender: object, request: HttpRequest | None, user: User | None, **kwargs: Any) -> None:
    if user is not None:
        record_audit(action="logout", actor=user, request=request)


@receiver(user_login_failed)
def on_login_failed(
    sender: object, credentials: dict[str, Any], request: HttpRequest | None = None, **kwargs: Any
) -> None:
    # What was typed is not kept: sooner or later it is somebody's password.
    email = str(credentials.get("email", ""))
    known = User.objects.filter(email__iexact=email).first() if email else None
    record_audit(action="login_failed", actor=known, request=request, detail={"factor": "password"})


@receiver(mfa_signals.authentication_failed)
def on_second_factor_failed(
    sender: object, request: HttpRequest, user: User, authenticator: Authenticator | None, **kwargs: Any
) -> None:
    kind = authenticator.type if authenticator is not None else "unknown"
    record_audit(action="login_failed", actor=user, request=request, detail={"factor": kind})


@receiver(account_signals.password_changed)
@receiver(account_signals.password_set)
def on_password_changed(sender: object, request: HttpRequest, user: User, **kwargs: Any) -> None:
    record_audit(action="password_changed", actor=user, request=request)
    transaction.on_commit(partial(sockets.close_user, user.pk))


@receiver(account_signals.password_reset)
def on_password_reset(sender: object, request: HttpRequest, user: User, **kwargs: Any) -> None:
    record_audit(action="password_reset", actor=user, request=request)
    transaction.on_commit(partial(sockets.close_user, user.pk))


@receiver(account_signals.email_changed)
def on_email_changed(sender: object, request: HttpRequest, user: User, **kwargs: Any) -> None:
    record_audit(action="email_changed", actor=user, request=request)


@receiver(mfa_signals.authenticator_added)
def on_factor_added(
    sender: object, request: HttpRequest, user: User, authenticator: Authenticator, **kwargs: Any
) -> None:
    record_audit(action="two_factor_on", actor=user, request=request, detail={"factor": authenticator.type})


@receiver(mfa_signals.authenticator_removed)
def on_factor_removed(
    sender: object, request: HttpRequest, user: User, authenticator: Authenticator, **kwargs: Any
) -> None:
    record_audit(action="two_factor_off", actor=user, request=request, detail={"factor": authenticator.type})
