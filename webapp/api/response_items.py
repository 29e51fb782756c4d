"""The items of a response: what it was asked with, and what the responses before it were asked with and said.

A generation keeps them as messages; each item's id and role, as they were sent, are kept with the completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from inference.models import Generation
from inference.services import Prompt
from webapp.api.models import Completion
from webapp.api.response_schemas import InputItem

# What developers say is the system's word to a model.
_ROLES = {"developer": "system"}


class Item(NamedTuple):
    id: str
    role: str
    text: str


def new_items(items: Sequence[InputItem]) -> list[Item]:
    return [Item(f"msg_{uuid4().hex}", item.role, item.text) for item in items]


def items_of(completion: Completion, generation: Generation) -> list[Item]:
    """What a response was made from, oldest first."""
    kept = completion.request["items"]
    texts = [message["content"] for message in generation.messages[-len(kept) :]]
    return [Item(id_, role, text) for (id_, role), text in zip(kept, texts, strict=True)]


def said_after(completion: Completion, generation: Generation) -> list[Item]:
    """What the next response goes on from: all of that, and what was answered."""
    answered = [Item(output_id(generation.id), "assistant", generation.text)] if generation.text else []
    return items_of(completion, generation) + answered


def output_id(generation_id: UUID) -> str:
    return f"msg_{generation_id.hex}"


def as_prompt(items: Sequence[Item], instructions: str | None) -> Prompt:
    told = [] if instructions is None else [{"role": "system", "content": instructions}]
    turns = [{"role": _ROLES.get(item.role, item.role), "content": item.text} for item in items]
    return Prompt(messages=[*told, *turns])


def as_kept(items: Sequence[Item]) -> list[list[str]]:
    return [[item.id, item.role] for item in items]


def as_json(item: Item) -> dict[str, Any]:
    """As programs see it."""
    part: dict[str, Any] = {"type": "input_text", "text": item.text}
    if item.role == "assistant":
        part = {"type": "output_text", "text": item.text, "annotations": [], "logprobs": []}
    return {
        "id": item.id,
        "type": "message",
        "status": "completed",
        "role": item.role,
        "content": [part],
    }
