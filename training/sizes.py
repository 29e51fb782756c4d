"""How sizes are said to people. Knows nothing of what is measured."""

from __future__ import annotations

from django.utils.formats import number_format
from django.utils.translation import gettext as _


def spoken_size(size: int) -> str:
    """Bytes as a person reads them: "3.2 GB"."""
    value, unit = float(size), _("%(size)s bytes")
    for larger in (_("%(size)s KB"), _("%(size)s MB"), _("%(size)s GB"), _("%(size)s TB")):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    digits = 1 if value < 10 and value != int(value) else 0
    return unit % {"size": number_format(round(value, digits), digits)}
