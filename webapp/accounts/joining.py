"""What happens to a new person: an invitation is accepted, or they get a workspace of their own.

Local sign-up and single sign-on both end here, inside the transaction that makes the account.
"""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest

from webapp.accounts import invitations
from webapp.accounts.access import WORKSPACE_SESSION_KEY
from webapp.accounts.audit import record_audit
from webapp.accounts.models import Invitation, User
from webapp.accounts.services import create_workspace, own_workspace_name


def pending_invitation(request: HttpRequest) -> Invitation | None:
    """The invitation whose link this browser followed, if it may still be used."""
    try:
        return invitations.find_invitation(request.session.get(invitations.SESSION_KEY))
    except invitations.InvitationGone:
        return None


def may_sign_up(request: HttpRequest) -> bool:
    if settings.SIGNUP == "open":
        return True
    return settings.SIGNUP == "invite" and pending_invitation(request) is not None


def settle(*, user: User, request: HttpRequest) -> None:
    """Give a person who has just signed up a place. Raises UserError, and then the account must not stay."""
    record_audit(action="signed_up", actor=user, request=request)
    hashed = request.session.get(invitations.SESSION_KEY)
    if hashed and (settings.SIGNUP == "invite" or pending_invitation(request)):
        membership = invitations.accept_invitation(user=user, hashed=hashed, request=request)
        del request.session[invitations.SESSION_KEY]
        request.session[WORKSPACE_SESSION_KEY] = str(membership.workspace_id)
    else:
        create_workspace(user=user, name=own_workspace_name(user), request=request)
