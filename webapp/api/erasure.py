"""What erasing a person means for the API: what their programs asked for goes, stored or not, with its answers."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.translation import gettext as _

from webapp.accounts.erasure import ErasureLine, register_eraser
from webapp.accounts.models import User
from webapp.api.models import Completion
from webapp.api.services import delete_completions

_AT_ONCE = 500


def erase(user: User) -> Iterable[ErasureLine]:
    """Runs inside the erasing transaction."""
    theirs = list(Completion.objects.filter(user=user).values_list("pk", flat=True))
    for at in range(0, len(theirs), _AT_ONCE):
        delete_completions(ids=theirs[at : at + _AT_ONCE])
    yield ErasureLine(_("Answers to your programs"), len(theirs))


register_eraser("api", erase)
