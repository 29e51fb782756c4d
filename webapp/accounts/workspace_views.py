"""Pages of a workspace: its name, members, invitations and audit log; making one, switching, leaving."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from webapp.accounts import access, invitations, services
from webapp.accounts.audit import ACTIONS
from webapp.accounts.forms import InvitationForm, WorkspaceForm, role_choices
from webapp.accounts.models import Membership, Role, User
from webapp.accounts.requests import next_url, person, posted

AUDIT_PAGE = 50


@login_required
@require_GET
def workspace_settings(request: HttpRequest) -> HttpResponse:
    _workspace, mine = access.current_workspace(person(request), request.session)
    return _page(request, mine)


def _page(request: HttpRequest, mine: Membership, *, status: int = 200, **extra: object) -> HttpResponse:
    choices = role_choices(mine) if mine.is_admin else []
    context: dict[str, object] = {
        "workspace": mine.workspace,
        "mine": mine,
        "members": access.list_members(mine),
        "roles": choices,
        "manageable": {value for value, _label in choices},
        "tab": "workspace",
    }
    if mine.is_admin:
        context |= {
            "rename_form": WorkspaceForm(initial={"name": mine.workspace.name}),
            "invitation_form": InvitationForm(actor=mine),
            "invitations": access.list_invitations(mine).filter(expires_at__gt=timezone.now()),
        }
    return render(request, "accounts/workspace.html", context | extra, status=status)


@login_required
@require_http_methods(["GET", "POST"])
def create(request: HttpRequest) -> HttpResponse:
    user = person(request)
    form = WorkspaceForm(posted(request))
    if request.method == "POST" and form.is_valid():
        workspace = services.create_workspace(user=user, name=form.cleaned_data["name"], request=request)
        services.switch_workspace(user=user, session=request.session, workspace_id=workspace.pk)
        return redirect("workspace_settings")
    context = {
        "form": form,
        "allowed": services.may_create_workspace(user=user),
        "first": not access.list_workspaces(user).exists(),
    }
    return render(request, "accounts/workspace_new.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
def switch(request: HttpRequest) -> HttpResponse:
    services.switch_workspace(
        user=person(request), session=request.session, workspace_id=request.POST.get("workspace", "")
    )
    return HttpResponseRedirect(next_url(request, "home"))


@login_required
@require_POST
def rename(request: HttpRequest, workspace_id: uuid.UUID) -> HttpResponse:
    user = person(request)
    mine = access.require_admin(user, workspace_id)
    form = WorkspaceForm(request.POST)
    if not form.is_valid():
        return _page(request, mine, status=400, rename_form=form)
    services.rename_workspace(
        actor=user, workspace_id=workspace_id, name=form.cleaned_data["name"], request=request
    )
    messages.success(request, _("Saved."))
    return redirect("workspace_settings")


@login_required
@require_POST
def leave(request: HttpRequest, workspace_id: uuid.UUID) -> HttpResponse:
    workspace = access.get_workspace(request.user, workspace_id)
    services.leave_workspace(user=person(request), workspace_id=workspace_id, request=request)
    messages.success(request, _("You have left %(name)s.") % {"name": workspace.name})
    return redirect("profile")


@login_required
@require_POST
def change_role(request: HttpRequest, workspace_id: uuid.UUID, user_id: uuid.UUID) -> HttpResponse:
    member = services.change_role(
        actor=person(request),
        workspace_id=workspace_id,
        user_id=user_id,
        role=request.POST.get("role", ""),
        request=request,
    )
    messages.success(
        request,
        _("%(name)s is now: %(role)s.") % {"name": member.user.display_name, "role": Role(member.role).label},
    )
    return redirect("workspace_settings")


@login_required
@require_POST
def remove_member(request: HttpRequest, workspace_id: uuid.UUID, user_id: uuid.UUID) -> HttpResponse:
    services.remove_member(actor=person(request), workspace_id=workspace_id, user_id=user_id, request=request)
    messages.success(request, _("Removed."))
    return redirect("workspace_settings")


@never_cache
@login_required
@require_POST
def invite(request: HttpRequest, workspace_id: uuid.UUID) -> HttpResponse:
    user = person(request)
    mine = access.require_admin(user, workspace_id)
    form = InvitationForm(request.POST, actor=mine)
    if not form.is_valid():
        return _page(request, mine, status=400, invitation_form=form)
    _invitation, token = invitations.invite(
        actor=user,
        workspace_id=workspace_id,
        role=form.cleaned_data["role"],
        email=form.cleaned_data["email"],
        request=request,
    )
    # Shown in the answer itself, not after a redirect: the token must not be kept anywhere to be shown later.
    link = request.build_absolute_uri(reverse("invitation", args=[token]))
    return _page(request, mine, new_link=link)


@login_required
@require_POST
def revoke_invitation(
    request: HttpRequest, workspace_id: uuid.UUID, invitation_id: uuid.UUID
) -> HttpResponse:
    invitations.revoke_invitation(
        actor=person(request), workspace_id=workspace_id, invitation_id=invitation_id, request=request
    )
    messages.success(request, _("Revoked. The link no longer works."))
    return redirect("workspace_settings")


@login_required
@require_GET
def audit(request: HttpRequest) -> HttpResponse:
    workspace, mine = access.current_workspace(person(request), request.session)
    page = Paginator(access.list_audit_events(mine), AUDIT_PAGE).get_page(request.GET.get("page"))
    subjects = {str(event.detail["user"]) for event in page if "user" in event.detail}
    names = {str(user.pk): user.display_name for user in User.objects.filter(pk__in=subjects)}
    rows = [
        {
            "event": event,
            "action": ACTIONS.get(event.action, event.action),
            "about": names.get(event.detail.get("user", ""), ""),
            "role": dict(Role.choices).get(event.detail.get("to") or event.detail.get("role"), ""),
        }
        for event in page
    ]
    context = {"workspace": workspace, "mine": mine, "page": page, "rows": rows, "tab": "audit"}
    return render(request, "accounts/audit.html", context)
