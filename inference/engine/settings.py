"""Fills the gaps in a request's sampling parameters from the model's generation_config. Knows nothing of torch."""

from __future__ import annotations

import math
from typing import Any

from inference.engine.sampler import SamplingSettings
from inference.parameters import SamplingParams

# Fields a generation_config.json may set, with the range we accept from a file we did not write.
_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 10_000_000),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-6, 10.0),
}


def resolve_settings(sampling: SamplingParams, defaults: dict[str, Any]) -> SamplingSettings:
    """What the request says, else what the model's authors say, else the field's neutral value."""

    def value(name: str, neutral: float) -> float:
        given = getattr(sampling, name)
        return float(_usable(defaults, name, neutral) if given is None else given)

    return SamplingSettings(
        temperature=value("temperature", 1.0),
        top_k=int(value("top_k", 0)),
        top_p=value("top_p", 1.0),
        min_p=value("min_p", 0.0),
        repetition_penalty=value("repetition_penalty", 1.0),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )


def resolve_max_tokens(sampling: SamplingParams, defaults: dict[str, Any]) -> int | None:
    """None: as many as the context leaves."""
    if sampling.max_tokens is not None:
        return sampling.max_tokens
    value = defaults.get("max_new_tokens")
    return value if type(value) is int and value > 0 else None


def _usable(defaults: dict[str, Any], name: str, neutral: float) -> float:
    found: Any = defaults.get(name)
    low, high = _RANGES[name]
    if type(found) not in (int, float) or not math.isfinite(found) or not low <= found <= high:
        return neutral
    return float(found)
