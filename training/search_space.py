"""What a search varies: knobs, each between two limits or among choices. Knows neither rows nor how the next is chosen.

{"learning_rate": {"low": 1e-5, "high": 1e-3, "log": true}, "optimizer": {"choices": ["adamw", "sgd"]}}
"""

from __future__ import annotations

import copy
import math
from typing import Any, get_args

from django.utils.translation import gettext as _

from training.knob_fields import KNOBS, Knob
from training.knobs import wrong_knobs
from webapp.core.errors import UserError

Space = dict[str, dict[str, Any]]
MOST_KNOBS = 8
MOST_CHOICES = 20
# What changes not how well it learns, what changes what the loss is of (so that trials could not be compared), what a
# cross-validation varies, and what is no single value.
_NEVER = (
    *("seed", "sample_tokens", "keep_checkpoints", "packing", "microbatch_tokens", "gradient_checkpointing"),
    *("accumulation", "max_length", "vocabulary", "folds", "fold", "lora.targets"),
)
SEARCHABLE = tuple(name for name in KNOBS if name not in _NEVER)


def is_number(knob: Knob) -> bool:
    return knob.type in (int, float) or any(kind in (int, float) for kind in get_args(knob.type))


def is_whole(knob: Knob) -> bool:
    return knob.type is int or int in get_args(knob.type)


def checked_space(task: str, spec: dict[str, Any], space: dict[str, Any]) -> Space:
    """Limits of whole numbers are whole numbers in what comes back. Raises UserError `bad_space`, naming each knob."""
    if not 1 <= len(space) <= MOST_KNOBS:
        raise UserError("bad_space", _("Search for 1 to %(most)s settings at a time.") % {"most": MOST_KNOBS})
    found: Space = {}
    wrong: list[str] = []
    for name, asked in space.items():
        try:
            found[name] = _checked(name, asked)
        except _Misfit as misfit:
            wrong.append(str(misfit))
    for name, values in found.items():
        for value in values.get("choices") or (values["low"], values["high"]):
            why = wrong_knobs(task, with_knob(spec, name, value))
            wrong += [each for each in why if each not in wrong]
    if wrong:
        raise UserError("bad_space", _("This cannot be searched: %(why)s.") % {"why": "; ".join(wrong)})
    return found


class _Misfit(Exception):
    """A sentence's part about a knob that cannot be searched for like this."""


def _checked(name: str, asked: Any) -> dict[str, Any]:
    if name not in SEARCHABLE:
        raise _Misfit(f"{name} cannot be searched for")
    given = {*asked} if isinstance(asked, dict) else set()
    if given == {"choices"}:
        return _choices(name, asked["choices"])
    if given in ({"low", "high"}, {"low", "high", "log"}):
        return _limits(KNOBS[name], **asked)
    raise _Misfit(f"{name} has neither limits nor choices")


def _limits(knob: Knob, low: Any, high: Any, log: Any = False) -> dict[str, Any]:
    if not is_number(knob):
        raise _Misfit(f"{knob.name} has choices and no limits")
    if not (_finite(low) and _finite(high) and isinstance(log, bool)):
        raise _Misfit(f"{knob.name} needs two numbers as its limits")
    if not low < high:
        raise _Misfit(f"{knob.name} goes from {low:g} to {high:g}, which is nothing to choose from")
    if is_whole(knob) and (low != int(low) or high != int(high)):
        raise _Misfit(f"{knob.name} is a whole number")
    if log and low <= 0:
        raise _Misfit(f"{knob.name} begins at {low:g}, and in powers it must be above 0")
    kind = int if is_whole(knob) else float
    return {"low": kind(low), "high": kind(high), "log": log}


def _choices(name: str, choices: Any) -> dict[str, Any]:
    fits = isinstance(choices, list) and all(isinstance(each, str | bool | int | float) for each in choices)
    if not fits or not 2 <= len({str(each) for each in choices}) == len(choices) <= MOST_CHOICES:
        raise _Misfit(f"{name} needs 2 to {MOST_CHOICES} different choices")
    return {"choices": choices}


def _finite(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) < 2**63 and math.isfinite(value)


def with_knob(spec: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The same spec with that knob."""
    changed = copy.deepcopy(spec)
    holder = changed.setdefault("lora", {}) if name.startswith("lora.") else changed
    holder[name.removeprefix("lora.")] = value
    return changed


def with_knobs(spec: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        spec = with_knob(spec, name, value)
    return spec


def knob_values(spec: dict[str, Any], space: Space) -> dict[str, Any]:
    """What a trial's spec has for each knob of the space."""
    lora = spec.get("lora", {})
    return {
        name: lora.get(name.removeprefix("lora.")) if name.startswith("lora.") else spec.get(name)
        for name in space
    }
