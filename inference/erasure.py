"""What erasing a person means for generations and usage: what is being said goes on as nobody's, and what was used
stays counted for their workspaces, but as nobody's."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Q
from django.utils.translation import gettext as _

from inference import usage
from inference.models import NOBODY, Generation, UsageDay
from webapp.accounts.erasure import ErasureLine, register_eraser
from webapp.accounts.models import User


def erase(user: User) -> Iterable[ErasureLine]:
    """Runs inside the erasing transaction, before other apps delete what the person said: from here on all that ends
    is counted as nobody's."""
    keys = list(user.api_keys.values_list("id", flat=True))
    Generation.objects.filter(user=user).update(user=None)
    Generation.objects.filter(api_key__in=keys).update(api_key=None)
    theirs = UsageDay.objects.filter(Q(user_id=user.pk) | Q(api_key_id__in=keys))
    days = list(theirs.order_by("id"))
    theirs.delete()
    for day in days:
        day.user_id = day.api_key_id = NOBODY
        usage.add(day)
    yield ErasureLine(_("Days of usage"), len(days), _("kept for their workspaces, without your name"))


register_eraser("usage", erase)
