"""Permission-checked reads of widgets: an admin's own, and the one conversation a visitor's token opens."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from webapp.accounts.access import require_admin
from webapp.accounts.models import User, Workspace
from webapp.api.models import Widget, WidgetSession
from webapp.api.widget_services import token_hash
from webapp.core.errors import NotFound, UserError


def list_widgets(user: User, workspace: Workspace) -> QuerySet[Widget]:
    """Of a workspace, for its owners and admins. Raises NotFound, AdminsOnly."""
    require_admin(user, workspace.pk)
    return Widget.objects.filter(workspace=workspace).select_related("model", "workspace")


def get_widget(user: User, workspace: Workspace, widget_id: uuid.UUID) -> Widget:
    found = list_widgets(user, workspace).filter(pk=widget_id).first()
    if found is None:
        raise NotFound(_("That widget"))
    return found


def shown_widget(widget_id: uuid.UUID) -> Widget:
    """One that pages may show. Anybody may ask: its id is in the pages that do. Raises NotFound."""
    rows = Widget.objects.select_related("workspace", "model__base")
    found = rows.filter(pk=widget_id, is_active=True).first()
    if found is None:
        raise NotFound(_("That chat"))
    return found


def session_of(widget: Widget, token: str) -> WidgetSession:
    """The conversation a visitor's token opens, in this widget alone. Raises UserError `unknown_session` (401)."""
    found = None
    if token and len(token) < 100 and token.isascii():
        found = WidgetSession.objects.filter(widget=widget, token_hash=token_hash(token)).first()
    if found is None:
        raise UserError("unknown_session", _("This conversation has ended. Begin a new one."), status=401)
    found.widget = widget
    return found
