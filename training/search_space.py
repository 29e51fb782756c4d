"""What a search varies: knobs, each between two limits or among choices. Knows neither rows nor how the next is chosen.

{"learning_rate": {"low": 1e-5, "high": 1e-3, "log": true}, "optimizer": {"choices": ["adamw", "sgd"]}}

Layers are chosen by the names of sets (`knob_fields.TARGETS`): {"lora.targets": {"choices": ["all", "attention"]}}.
"""

from __future__ import annotations

import copy
import math
from typing import Any, get_args

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from training.job_forms import PROMPTLESS
from training.knob_fields import KNOBS, TARGETS, Knob
from training.knobs import OURS, wrong_knobs
from training.trainer.spec import EFFORT
from webapp.core.errors import UserError

Space = dict[str, dict[str, Any]]
MOST_KNOBS = 8
MOST_CHOICES = 20
# Why not, of what a search cannot vary: it compares jobs by their validation loss.
_OF_FOLDS = gettext_noop("cross-validation varies it, which is begun in place of a search")
_OF_THE_SITE = gettext_noop("the site sets it, and not a job")
_WHY_NOT = {
    "keep_checkpoints": gettext_noop("it changes what is kept of a job, and not what is learnt"),
    "sample_tokens": gettext_noop("it changes how long sample answers are, and not what is learnt"),
    "prompts": gettext_noop("it changes what is asked, and not what is learnt"),
    "vocabulary": gettext_noop("it changes which tokens the loss is of, so trials could not be compared"),
    "folds": _OF_FOLDS,
    "fold": _OF_FOLDS,
    "method": gettext_noop("it decides which other settings there are: begin a search for each method"),
    "lora": gettext_noop("it is a group of settings: name one of them, such as lora.r"),
    **dict.fromkeys(OURS, _OF_THE_SITE),
}


def why_not(name: str) -> str:
    """Why a knob cannot be searched for, as the end of a sentence; empty where it can."""
    if name in _WHY_NOT:
        return _(_WHY_NOT[name])
    return "" if name in KNOBS else _("there is no such setting")


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
    if task not in PROMPTLESS and "auto" in found.get("max_length", {}).get("choices", ()):
        wrong.append(
            _("the choices of max_length are numbers, since the longest says what all trials are judged by")
        )
    if wrong:
        raise UserError("bad_space", _("This cannot be searched: %(why)s.") % {"why": "; ".join(wrong)})
    return found


class _Misfit(Exception):
    """A sentence's part about a knob that cannot be searched for like this."""


def _checked(name: str, asked: Any) -> dict[str, Any]:
    if why := why_not(name):
        raise _Misfit(_("%(name)s cannot be searched for: %(why)s") % {"name": name, "why": why})
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
    if name == "lora.targets" and not {*choices} <= {*TARGETS}:
        raise _Misfit(f"{name} is chosen among {', '.join(TARGETS)}")
    return {"choices": choices}


def _finite(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) < 2**63 and math.isfinite(value)


def by_time(space: Space) -> bool:
    """Whether all trials learn the same, so that only the time they take can be compared."""
    return {*space} <= {*EFFORT}


def judged_length(task: str, space: Space) -> int | None:
    """Tokens that are judged of a validation example where trials read them up to different lengths: as many as the one
    that reads most, or their losses were of different tokens. None where all read the same, and of a text with a label,
    which is one loss however much is read of it."""
    if "max_length" not in space or task in PROMPTLESS:
        return None
    return max(_numbers(space["max_length"]))


def most_demanding(spec: dict[str, Any], space: Space) -> dict[str, Any]:
    """The spec of the trial whose model can read the least of its examples: the longest, and the smallest new model."""
    ends = (("max_length", max), ("size", min))
    return with_knobs(spec, {name: end(_numbers(space[name])) for name, end in ends if name in space})


def _numbers(asked: dict[str, Any]) -> list[Any]:
    """Limits, or choices but for "auto", which may be among the lengths of what has labels."""
    return [each for each in asked.get("choices") or (asked["low"], asked["high"]) if each != "auto"]


def with_knob(spec: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The same spec with that knob."""
    if name == "lora.targets":
        value = [*TARGETS[value]]
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
    return {name: _value(spec, name) for name in space}


def _value(spec: dict[str, Any], name: str) -> Any:
    holder = spec.get("lora", {}) if name.startswith("lora.") else spec
    value = holder.get(name.removeprefix("lora."))
    if name == "lora.targets":  # the set it is, by its name
        return next((known for known, modules in TARGETS.items() if [*modules] == value), value)
    return value
