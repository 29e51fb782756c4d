"""Template tags of the account pages."""

from __future__ import annotations

from django import template
from django.template import RequestContext
from django.utils.translation import gettext as _

from webapp.accounts.joining import may_sign_up

register = template.Library()

# In this order: Edge and Opera also call themselves Chrome, and Chrome calls itself Safari.
BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


@register.filter
def browser(user_agent: str) -> str:
    """A browser's long description of itself, as a person would put it: "Firefox on Linux"."""
    name = next((known for mark, known in BROWSERS if mark in user_agent), None)
    system = next((known for mark, known in SYSTEMS if mark in user_agent), None)
    if name and system:
        return _("%(browser)s on %(system)s") % {"browser": name, "system": system}
    return name or system or user_agent[:60] or _("Unknown browser")


@register.simple_tag(takes_context=True)
def sign_up_is_open(context: RequestContext) -> bool:
    """Whether this visitor may create an account: the login page then says where."""
    return may_sign_up(context["request"])
