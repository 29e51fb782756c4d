"""Pages of webhooks, for owners and admins: all of them, one of them with what was sent, and its secret, shown once."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from webapp.accounts import access
from webapp.accounts.models import Membership
from webapp.accounts.requests import person
from webapp.api import webhook_access, webhook_services
from webapp.api.models import Webhook, WebhookDelivery
from webapp.api.webhook_events import TYPES
from webapp.api.webhook_forms import SecretForm, WebhookForm
from webapp.core.errors import UserError

_PAGE = 50


@login_required
@require_GET
def webhooks(request: HttpRequest) -> HttpResponse:
    _workspace, mine = access.current_workspace(person(request), request.session)
    return _list(request, mine, WebhookForm())


def _list(request: HttpRequest, mine: Membership, form: WebhookForm, status: int = 200) -> HttpResponse:
    found = list(webhook_access.list_webhooks(mine))
    context = {"workspace": mine.workspace, "webhooks": found, "form": form, "tab": "webhooks"}
    return render(request, "api/webhooks.html", context, status=status)


@never_cache
@login_required
@require_POST
def create(request: HttpRequest, workspace_id: uuid.UUID) -> HttpResponse:
    user = person(request)
    mine = access.require_admin(user, workspace_id)
    form = WebhookForm(request.POST)
    if not form.is_valid():
        return _list(request, mine, form, status=400)
    try:
        webhook = webhook_services.create_webhook(
            user=user, workspace=mine.workspace, **form.cleaned_data, request=request
        )
    except UserError as error:
        form.add_error(error.param if error.param in form.fields else None, error.message)
        return _list(request, mine, form, status=error.status)
    # Shown in the answer itself, not after a redirect: it must not be kept anywhere to be shown later.
    return _one(request, mine, webhook, new_secret=webhook.secret)


@login_required
@require_http_methods(["GET", "POST"])
def webhook(request: HttpRequest, workspace_id: uuid.UUID, webhook_id: uuid.UUID) -> HttpResponse:
    mine, found = _found(request, workspace_id, webhook_id)
    if request.method == "GET":
        return _one(request, mine, found)
    form = WebhookForm(request.POST)
    if form.is_valid():
        try:
            webhook_services.update_webhook(
                webhook=found, by=person(request), **form.cleaned_data, request=request
            )
        except UserError as error:
            form.add_error(error.param if error.param in form.fields else None, error.message)
    if form.errors:
        return _one(request, mine, found, status=400, form=form)
    messages.success(request, _("Saved."))
    return redirect("webhook", workspace_id, webhook_id)


def _found(
    request: HttpRequest, workspace_id: uuid.UUID, webhook_id: uuid.UUID
) -> tuple[Membership, Webhook]:
    mine = access.require_admin(person(request), workspace_id)
    return mine, webhook_access.get_webhook(mine, webhook_id)


def _one(
    request: HttpRequest, mine: Membership, webhook: Webhook, *, status: int = 200, **extra: object
) -> HttpResponse:
    deliveries = Paginator(webhook_access.list_deliveries(webhook), _PAGE).get_page(request.GET.get("page"))
    told = {"name": webhook.name, "url": webhook.url, "events": webhook.events}
    context: dict[str, object] = {
        "workspace": mine.workspace,
        "webhook": webhook,
        "form": WebhookForm(initial=told),
        "secret_form": SecretForm(),
        "page": deliveries,
        "rows": [_row(delivery) for delivery in deliveries],
        "tab": "webhooks",
    }
    return render(request, "api/webhook.html", context | extra, status=status)


_DOTS = {WebhookDelivery.State.DELIVERED: "dot-success", WebhookDelivery.State.FAILED: "dot-danger"}


def _row(delivery: WebhookDelivery) -> dict[str, object]:
    waits = delivery.state == WebhookDelivery.State.PENDING
    return {
        "delivery": delivery,
        "what": _("Test") if delivery.is_test else TYPES.get(delivery.type, delivery.type),
        "dot": _DOTS.get(WebhookDelivery.State(delivery.state), "dot-warning"),
        "retries": waits and delivery.attempts > 0 and not delivery.is_under_way,
        "error": _(delivery.error) if delivery.error else "",
    }


@login_required
@require_POST
def switch(request: HttpRequest, workspace_id: uuid.UUID, webhook_id: uuid.UUID) -> HttpResponse:
    _mine, found = _found(request, workspace_id, webhook_id)
    on = request.POST.get("on") == "1"
    webhook_services.update_webhook(webhook=found, by=person(request), is_active=on, request=request)
    messages.success(request, _("Switched on.") if on else _("Switched off."))
    return redirect("webhook", workspace_id, webhook_id)


@login_required
@require_POST
def test(request: HttpRequest, workspace_id: uuid.UUID, webhook_id: uuid.UUID) -> HttpResponse:
    _mine, found = _found(request, workspace_id, webhook_id)
    _say(request, webhook_services.send_test(webhook=found))
    return redirect("webhook", workspace_id, webhook_id)


@never_cache
@login_required
@require_POST
def secret(request: HttpRequest, workspace_id: uuid.UUID, webhook_id: uuid.UUID) -> HttpResponse:
    mine, found = _found(request, workspace_id, webhook_id)
    keep_old = "keep_old" in request.POST
    new = webhook_services.roll_secret(webhook=found, by=person(request), keep_old=keep_old, request=request)
    return _one(request, mine, found, new_secret=new, kept_old=keep_old)


@login_required
@require_POST
def delete(request: HttpRequest, workspace_id: uuid.UUID, webhook_id: uuid.UUID) -> HttpResponse:
    _mine, found = _found(request, workspace_id, webhook_id)
    webhook_services.delete_webhook(webhook=found, by=person(request), request=request)
    messages.success(request, _("Deleted. “%(name)s” is told nothing any more.") % {"name": found.name})
    return redirect("webhooks")


@login_required
@require_POST
def again(
    request: HttpRequest, workspace_id: uuid.UUID, webhook_id: uuid.UUID, delivery_id: uuid.UUID
) -> HttpResponse:
    _mine, found = _found(request, workspace_id, webhook_id)
    delivery = webhook_access.get_delivery(found, delivery_id)
    _say(request, webhook_services.send_again(delivery=delivery))
    return redirect("webhook", workspace_id, webhook_id)


def _say(request: HttpRequest, delivery: WebhookDelivery) -> None:
    if delivery.state == WebhookDelivery.State.DELIVERED:
        messages.success(
            request, _("It arrived: your server answered %(status)s.") % {"status": delivery.status}
        )
        return
    reason = _(delivery.error)
    if delivery.status is not None:
        reason = f"{reason} ({delivery.status})"
    messages.error(request, _("It did not arrive. %(reason)s") % {"reason": reason})
