"""Which models a chat may be with, as its page lists them. Knows nothing of what is said in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from django.utils.translation import gettext as _

from inference.models import ServedModel
from webapp.chat.serving import note_on
from webapp.core.errors import NotFound


@dataclass(frozen=True)
class Choice:
    value: str  # of the address and of the frame; "" is the site's default, whatever it is by then
    label: str
    is_chosen: bool
    note: str  # see serving.note_on


class Picker(NamedTuple):
    """What the page needs: nothing is chosen from where there is but one."""

    served: list[Choice]
    unserved: list[Choice]  # listed, so that nobody looks for them in vain
    chosen: ServedModel | None

    @property
    def is_shown(self) -> bool:
        return len(self.served) + len(self.unserved) > 1


def picker(models: Sequence[ServedModel], wanted: str) -> Picker:
    """Of the models a workspace may use, with the one an address names; raises NotFound where it names no such."""
    chosen = next((m for m in models if str(m.pk) == wanted if wanted), None)
    if wanted and chosen is None:
        raise NotFound(_("That model"))
    if chosen is None:
        chosen = next((m for m in models if m.is_default), None)
    labels = Counter(model.label for model in models)

    def choice(model: ServedModel) -> Choice:
        label = model.label
        if labels[label] > 1:  # two jobs of one name: what tells them apart is the end of the model's
            label = f"{label} ({model.name.rsplit(':', 1)[-1]})"
        return Choice("" if model.is_default else str(model.pk), label, model == chosen, note_on(model))

    # Somebody's own is always listed; a base model that is not served is nobody else's business.
    # Programs ask a checkpoint by its name; people choose among what came of their fine-tunes.
    listed = [m for m in models if m == chosen or ((m.is_served or m.workspace_id) and not m.is_checkpoint)]
    return Picker(
        [choice(m) for m in listed if m.is_served], [choice(m) for m in listed if not m.is_served], chosen
    )
