"""What the answers of chat completions and completions have in common: who answered, when, and with how many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.models import ServedModel
from webapp.api import access
from webapp.api.following import Choice
from webapp.api.models import Completion

Items = list[dict[str, Any]]  # OpenAI's logprobs, one for each token


def heading(completion: Completion, model: ServedModel, kind: str) -> dict[str, Any]:
    """The fields that every part of an answer has."""
    return {
        "id": access.public_id(completion),
        "object": kind,
        "created": int(completion.created_at.timestamp()),
        "model": completion.model_name,
        "system_fingerprint": fingerprint(model),
    }


def fingerprint(model: ServedModel) -> str:
    """Short for exactly this model: another one's answers to the same seed are others."""
    return f"fp_{model.digest[:12]}"


def usage(choices: Sequence[Choice], prompts: int = 1) -> dict[str, Any]:
    """Tokens of a call; those of a prompt count once, however many choices it has."""
    asked = choices[:: len(choices) // prompts]
    read, cached = sum(c.prompt_tokens for c in asked), sum(c.cached_tokens for c in asked)
    written = sum(choice.completion_tokens for choice in choices)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
