"""Names a conversation after its first reply: asks the model, in the background, and takes the answer if it will do."""

from __future__ import annotations

import re
from typing import Any

from django.db import transaction
from django.dispatch import receiver

from inference import services as inference
from inference.models import Generation
from inference.parameters import SamplingParams
from inference.signals import generation_ended
from webapp.chat.models import Conversation, Message
from webapp.chat.notify import title_changed
from webapp.core.errors import UserError

_PROMPT = (
    "Write a title of two to six words for a conversation that begins with the message below. "
    "Answer with the title only.\n\n{text}"
)
_PARAMS = SamplingParams(max_tokens=20, temperature=0.2, top_p=0.9, stop=("\n",))
_MAX_CHARACTERS = 60


@receiver(generation_ended)
def _on_generation_ended(generation: Generation, **_: Any) -> None:
    if generation.purpose == "title":
        _take_title(generation)
    elif generation.purpose == "reply" and generation.state == Generation.State.COMPLETE:
        _ask_for_title(generation)


def _ask_for_title(generation: Generation) -> None:
    conversation = (
        Conversation.objects.select_related("workspace")
        .filter(messages__generation=generation, title_source="first_words", title_generation=None)
        .first()
    )
    if conversation is None:
        return
    first = (
        conversation.messages.filter(role=Message.Role.USER)
        .order_by("position")
        .values_list("text", flat=True)[0]
    )
    try:
        conversation.title_generation = inference.start_generation(
            workspace=conversation.workspace,
            model=generation.model,
            messages=[{"role": "user", "content": _PROMPT.format(text=first[:1000])}],
            params=_PARAMS,
            purpose="title",
        )
    except UserError:
        return  # too much is waiting: the first words are title enough
    conversation.save(update_fields=["title_generation"])


def _take_title(generation: Generation) -> None:
    title = clean_title(generation.text) if generation.state == Generation.State.COMPLETE else ""
    named = Conversation.objects.filter(title_generation=generation, title_source="first_words")
    if title and named.update(title=title, title_source="model"):
        conversation = Conversation.objects.get(title_generation=generation)
        transaction.on_commit(lambda: title_changed(conversation))


def clean_title(text: str) -> str:
    """A model's answer as a title, or "" where it is none: too long to be one, or a sentence about the task."""
    line = text.strip().split("\n")[0]
    line = re.sub(r"^(title|topic)\s*:\s*", "", line, flags=re.IGNORECASE)
    line = re.sub(r"[*_`#]", "", line)
    line = " ".join(line.strip(" \"'“”‘’.,:;-").split())
    return line if 2 <= len(line) <= _MAX_CHARACTERS else ""
