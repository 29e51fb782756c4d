"""A recipe as a program writes it: JSON, checked field by field. Pages have a form for it (`training.forms`).

What the steps do is `training.datasets`' business.
"""

from __future__ import annotations

from typing import Any

import msgspec
from django.utils.translation import gettext as _

from training.datasets.recipe import Recipe
from training.forms import PERSONAL_DATA
from webapp.core.errors import UserError

_MOST_TOKENS = 1_000_000
_MOST_COPIES = 10
_MOST_HELD_BACK = 0.9
_LONGEST_TEXT = 200


def recipe_of(asked: dict[str, Any], param: str = "recipe") -> Recipe:
    """Fields that are left out are as in `Recipe`. Raises UserError `invalid_value`, which names the field."""
    try:
        recipe = msgspec.convert(asked, Recipe)
    except msgspec.ValidationError as error:
        reason, _at, place = str(error).partition(" - at `$")
        where = param + place.rstrip("`")
        message = _("“%(name)s” is not as it has to be: %(reason)s.")
        raise UserError("invalid_value", message % {"name": where, "reason": reason}, param=where) from error
    for name, why in _misfits(recipe).items():
        message = _("“%(name)s” is not as it has to be: %(reason)s.")
        where = f"{param}.{name}"
        raise UserError("invalid_value", message % {"name": where, "reason": why}, param=where)
    return recipe


def _misfits(recipe: Recipe) -> dict[str, str]:
    """Why a field cannot be so."""
    found: dict[str, str] = {}
    split, augment = recipe.split, recipe.augment
    unknown = sorted({*recipe.redact} - {*PERSONAL_DATA})
    if unknown:
        found["redact"] = _("it may name %(kinds)s") % {"kinds": ", ".join(PERSONAL_DATA)}
    if not 0 <= recipe.max_tokens <= _MOST_TOKENS:
        found["max_tokens"] = _("it may be from %(low)s to %(high)s") % {"low": 0, "high": _MOST_TOKENS}
    if recipe.missing == "fill" and not recipe.missing_fill.strip():
        found["missing_fill"] = _("say what to fill in")
    if recipe.too_long != "keep" and not recipe.max_tokens:
        found["max_tokens"] = _("say how long the longest example may be")
    for name in ("validation", "test"):
        if not 0 <= getattr(split, name) <= _MOST_HELD_BACK:
            found[f"split.{name}"] = _("it may be from %(low)s to %(high)s") % {
                "low": 0,
                "high": _MOST_HELD_BACK,
            }
    if split.validation + split.test > _MOST_HELD_BACK:
        found["split"] = _("leave at least a tenth for training")
    if split.given:
        found["split.given"] = _("it is not for you to set")
    for name, text in (("missing_fill", recipe.missing_fill), ("split.salt", split.salt)):
        if len(text) > _LONGEST_TEXT:
            found[name] = _("it may have %(most)s letters") % {"most": _LONGEST_TEXT}
    if augment is not None:
        if not 1 <= augment.copies <= _MOST_COPIES:
            found["augment.copies"] = _("it may be from %(low)s to %(high)s") % {
                "low": 1,
                "high": _MOST_COPIES,
            }
        for name in ("swap", "delete", "typo"):
            if not 0 <= getattr(augment, name) <= 1:
                found[f"augment.{name}"] = _("it may be from %(low)s to %(high)s") % {"low": 0, "high": 1}
    return found
