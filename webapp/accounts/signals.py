"""What logins, logouts and allauth's own pages lead to: closed sockets and audit events."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest

from webapp.accounts.models import User
from webapp.accounts.sockets import close_session


@receiver(user_logged_out)
def on_logged_out(sender: object, request: HttpRequest | None, user: User | None, **kwargs: Any) -> None:
    if request is not None and request.session.session_key:
        transaction.on_commit(partial(close_session, request.session.session_key))
