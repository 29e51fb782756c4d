"""The settings pages of widgets: made, changed, deleted, and the script tag to copy."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods, require_POST

from inference.access import models_for
from inference.models import ServedModel
from webapp.accounts.access import current_workspace
from webapp.accounts.models import Workspace
from webapp.accounts.requests import person, posted
from webapp.api import widget_services as services
from webapp.api.models import Widget
from webapp.api.widget_access import get_widget, list_widgets
from webapp.chat.markdown import render as markdown
from webapp.core.errors import UserError

THEMES = (("auto", _("As the visitor's device")), ("light", _("Light")), ("dark", _("Dark")))


class _ModelChoice(forms.ModelChoiceField):
    def label_from_instance(self, obj: Any) -> str:
        label: str = obj.label
        return label


class WidgetForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=80, help_text=_("What stands above the chat."))
    origins = forms.CharField(
        label=_("Sites that may show it"),
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "https://shop.example"}),
        help_text=_("One address on each line. Browsers show it nowhere else."),
    )
    model = _ModelChoice(
        ServedModel.objects.none(), label=_("Model"), required=False, empty_label=_("The site's default")
    )
    greeting = forms.CharField(
        label=_("Greeting"),
        max_length=300,
        required=False,
        help_text=_("What visitors see before they write."),
    )
    instructions = forms.CharField(
        label=_("Instructions"),
        widget=forms.Textarea(attrs={"rows": 4}),
        max_length=4_000,
        required=False,
        help_text=_(
            "Told to the model before every conversation. A clever visitor can find out what they say."
        ),
    )
    theme = forms.ChoiceField(label=_("Colours"), choices=THEMES)
    accent = forms.CharField(
        label=_("Accent colour"),
        max_length=7,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "#1f6feb"}),
    )
    messages_per_hour = forms.IntegerField(
        label=_("Messages an hour, of one visitor"), min_value=1, max_value=1_000_000, initial=30
    )
    messages_per_day = forms.IntegerField(
        label=_("Messages a day, of all visitors"), min_value=1, max_value=1_000_000, initial=1000
    )
    is_active = forms.BooleanField(label=_("Visitors can use it"), required=False, initial=True)

    def __init__(self, *args: Any, workspace: Workspace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        served = [model.pk for model in models_for(workspace) if model.is_served]
        choice = self.fields["model"]
        assert isinstance(choice, _ModelChoice)
        choice.queryset = models_for(workspace).filter(pk__in=served)

    @property
    def look(self) -> services.Look:
        values = dict(self.cleaned_data)
        values["origins"] = tuple(values["origins"].split())
        return services.Look(**values)


@login_required
@require_http_methods(["GET", "POST"])
def widgets(request: HttpRequest) -> HttpResponse:
    workspace, _membership = current_workspace(person(request), request.session)
    found = list_widgets(person(request), workspace)
    form = WidgetForm(posted(request), workspace=workspace)
    if request.method == "POST" and form.is_valid():
        try:
            widget = services.create_widget(
                user=person(request), workspace=workspace, look=form.look, request=request
            )
        except UserError as error:
            _show(error, form)
        else:
            return redirect("widget_settings", widget.pk)
    context = {"widgets": found, "form": form, "tab": "widgets", "workspace": workspace}
    return render(request, "api/widgets.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "POST"])
def widget_settings(request: HttpRequest, widget_id: uuid.UUID) -> HttpResponse:
    workspace, _membership = current_workspace(person(request), request.session)
    widget = get_widget(person(request), workspace, widget_id)
    form = WidgetForm(posted(request), workspace=workspace, initial=_initial(widget))
    if request.method == "POST" and form.is_valid():
        try:
            services.update_widget(user=person(request), widget=widget, look=form.look, request=request)
        except UserError as error:
            _show(error, form)
        else:
            return redirect("widget_settings", widget.pk)
    context = {"widget": widget, "form": form, "tab": "widgets", "tag": _shown(script_tag(widget))}
    return render(request, "api/widget_settings.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
def widget_delete(request: HttpRequest, widget_id: uuid.UUID) -> HttpResponse:
    workspace, _membership = current_workspace(person(request), request.session)
    widget = get_widget(person(request), workspace, widget_id)
    services.delete_widget(user=person(request), widget=widget, request=request)
    return redirect("widgets")


def script_tag(widget: Widget) -> str:
    accent = f' data-accent="{widget.accent}"' if widget.accent else ""
    return f'<script src="{settings.SITE_URL}/widget.js" data-widget="{widget.pk}"{accent} async></script>'


def _shown(tag: str) -> SafeString:
    return mark_safe(markdown(f"```html\n{tag}\n```"))  # noqa: S308  it sanitises


def _initial(widget: Widget) -> dict[str, object]:
    names = [name for name in WidgetForm.base_fields if name not in ("origins", "model")]
    initial: dict[str, object] = {name: getattr(widget, name) for name in names}
    return initial | {"origins": "\n".join(widget.origins), "model": widget.model_id}


def _show(error: UserError, form: WidgetForm) -> None:
    form.add_error(error.param if error.param in form.fields else None, error.message)
