"""Pages of one person: setting the site up, their settings, following an invitation, leaving for good."""

from __future__ import annotations

from allauth.core import ratelimit
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from webapp.accounts import access, invitations, services
from webapp.accounts.erasure import erase_user, orphaned_workspaces, sole_workspaces
from webapp.accounts.forms import DeleteAccountForm, ProfileForm, SetupForm
from webapp.accounts.models import User
from webapp.accounts.requests import person, posted
from webapp.accounts.setup_code import is_local
from webapp.core.errors import NotFound, UserError


def _limit(request: HttpRequest, action: str) -> None:
    if not ratelimit.consume(request, action=action):
        raise UserError(
            "too_many_attempts",
            _("Too many attempts. Wait a minute, then try again."),
            status=429,
            retry_after=60,
        )


@never_cache
@sensitive_post_parameters("password", "code")
@require_http_methods(["GET", "POST"])
def setup(request: HttpRequest) -> HttpResponse:
    """The first page of an empty site; afterwards it does not exist."""
    if User.objects.exists():
        if request.method == "POST":
            raise UserError(
                "already_set_up", _("This site already has an owner. Log in instead."), status=409
            )
        raise NotFound(_("That page"))
    ask_code = not is_local(request)
    if request.method == "POST":
        _limit(request, "setup")
    form = SetupForm(posted(request), ask_code=ask_code)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        user, _workspace = services.create_owner(
            email=data["email"],
            password=data["password"],
            name=data["name"],
            workspace_name=data["workspace"],
            request=request,
        )
        login(request, user, backend=settings.AUTHENTICATION_BACKENDS[0])
        return redirect(settings.LOGIN_REDIRECT_URL)
    return render(request, "accounts/setup.html", {"form": form}, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "POST"])
def settings_page(request: HttpRequest) -> HttpResponse:
    """Your account: everything about the person in one place."""
    user = person(request)
    form = ProfileForm(posted(request), initial={"name": user.name})
    if request.method == "POST" and form.is_valid():
        services.rename_person(user=user, name=form.cleaned_data["name"])
        messages.success(request, _("Saved."))
        return redirect("profile")
    factors = list(Authenticator.objects.filter(user=user))
    kinds = {factor.type for factor in factors}
    context = {
        "form": form,
        "has_totp": Authenticator.Type.TOTP in kinds,
        "passkeys": sum(factor.type == Authenticator.Type.WEBAUTHN for factor in factors),
        "has_codes": Authenticator.Type.RECOVERY_CODES in kinds,
        "session_count": len(UserSession.objects.purge_and_list(user)),
        "workspaces": access.list_workspaces(user),
        "may_create_workspace": services.may_create_workspace(user=user),
        "single_sign_on": bool(settings.SOCIALACCOUNT_PROVIDERS),
        "conversation_days": settings.RETENTION_CONVERSATIONS_DAYS,
        "tab": "account",
    }
    return render(request, "accounts/settings.html", context, status=400 if form.errors else 200)


@never_cache
@sensitive_post_parameters("password")
@login_required
@require_http_methods(["GET", "POST"])
def delete_account(request: HttpRequest) -> HttpResponse:
    user = person(request)
    if request.method == "POST":
        _limit(request, "reauthenticate")
    form = DeleteAccountForm(posted(request), user=user)
    if request.method == "POST" and form.is_valid():
        report = erase_user(user=user)
        # Not logout(): its signal would tell of a person who is no longer there.
        request.session.flush()
        request.user = AnonymousUser()
        return render(request, "accounts/deleted.html", {"report": [line for line in report if line.count]})
    context = {
        "form": form,
        "going": sole_workspaces(user),
        "orphaned": orphaned_workspaces(user),
        "tab": "account",
    }
    return render(request, "accounts/delete.html", context, status=400 if form.errors else 200)


@never_cache
@require_http_methods(["GET", "POST"])
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """What an invitation's link leads to: what it is for, and the button or the login that comes first."""
    hashed = invitations.token_hash(token)
    found = invitations.find_invitation(hashed)
    if not request.user.is_authenticated:
        request.session[invitations.SESSION_KEY] = hashed
        context = {"invitation": found, "may_sign_up": settings.SIGNUP != "closed", "here": request.path}
        return render(request, "accounts/invitation.html", context)
    user = person(request)
    if request.method == "POST":
        membership = invitations.accept_invitation(user=user, hashed=hashed, request=request)
        request.session.pop(invitations.SESSION_KEY, None)
        services.switch_workspace(user=user, session=request.session, workspace_id=membership.workspace_id)
        messages.success(request, _("You are in. This is %(name)s.") % {"name": membership.workspace.name})
        return redirect(settings.LOGIN_REDIRECT_URL)
    invitations.check_invited(found, user.email)
    return render(request, "accounts/invitation.html", {"invitation": found, "here": request.path})
