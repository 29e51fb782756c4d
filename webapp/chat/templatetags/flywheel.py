"""Template tags of the shell: icons. Knows nothing of conversations."""

from __future__ import annotations

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


@register.simple_tag
def icon(name: str) -> SafeString:
    """An icon of our sprite. It says nothing to screen readers: what it stands in has a name of its own."""
    return format_html(
        '<svg class="icon" aria-hidden="true"><use href="{}#{}"/></svg>',
        static("flywheel/icons/icons.svg"),
        name,
    )
