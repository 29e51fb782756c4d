"""The record of security-relevant acts. Knows how one is written; access.py knows who may read it.

`detail` names people by id only, so that erasing a person leaves nothing of them in it.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from webapp.accounts.models import AuditEvent, User, Workspace

ACTIONS = {
    "login": _("Logged in"),
    "login_failed": _("Failed to log in"),
    "logout": _("Logged out"),
    "password_changed": _("Changed their password"),
    "password_reset": _("Reset their password"),
    "email_changed": _("Changed their email address"),
    "two_factor_on": _("Turned a second factor on"),
    "two_factor_off": _("Turned a second factor off"),
    "session_ended": _("Ended another session"),
    "owner_created": _("Set the site up"),
    "operator_made": _("Became an operator of the site"),
    "operator_removed": _("Is no operator of the site any more"),
    "signed_up": _("Signed up"),
    "workspace_created": _("Created the workspace"),
    "workspace_renamed": _("Renamed the workspace"),
    "invitation_made": _("Made an invitation"),
    "invitation_revoked": _("Revoked an invitation"),
    "invitation_accepted": _("Accepted an invitation"),
    "role_changed": _("Changed a role"),
    "member_removed": _("Removed a member"),
    "member_left": _("Left the workspace"),
    "person_erased": _("Deleted their account"),
    "key_created": _("Created an API key"),
    "key_revoked": _("Revoked an API key"),
    "widget_created": _("Created a widget"),
    "widget_changed": _("Changed a widget"),
    "widget_deleted": _("Deleted a widget"),
    "webhook_created": _("Made a webhook"),
    "webhook_changed": _("Changed a webhook"),
    "webhook_secret_rolled": _("Gave a webhook a new secret"),
    "webhook_deleted": _("Deleted a webhook"),
    "webhook_given_up": _("A webhook was switched off: nothing arrived"),
    "limits_changed": _("Changed limits"),
    "dataset_created": _("Created a dataset"),
    "dataset_frozen": _("Froze a version of a dataset"),
    "dataset_version_deleted": _("Deleted a version of a dataset"),
    "dataset_deleted": _("Deleted a dataset"),
    "job_started": _("Started a fine-tune"),
    "job_paused": _("Paused a fine-tune"),
    "job_resumed": _("Resumed a fine-tune"),
    "job_cancelled": _("Cancelled a fine-tune"),
    "job_deleted": _("Deleted a fine-tune"),
    "search_started": _("Started a search for settings"),
    "search_cancelled": _("Cancelled a search for settings"),
    "search_deleted": _("Deleted a search for settings"),
}


def client_ip(request: HttpRequest | None) -> str | None:
    """The address the request came from, as the server saw it; forwarded headers are the server's business."""
    try:
        return str(ipaddress.ip_address(request.META["REMOTE_ADDR"])) if request is not None else None
    except (KeyError, ValueError):
        return None


def record_audit(
    *,
    action: str,
    actor: User | None = None,
    workspace: Workspace | None = None,
    request: HttpRequest | None = None,
    detail: dict[str, Any] | None = None,
) -> AuditEvent:
    """Write one event, in the caller's transaction. `action` is one of ACTIONS."""
    if action not in ACTIONS:
        raise ValueError(f"{action!r} is no audited action")
    return AuditEvent.objects.create(
        action=action, actor=actor, workspace=workspace, ip=client_ip(request), detail=detail or {}
    )
