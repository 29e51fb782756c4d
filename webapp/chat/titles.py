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

_TASK = "Name each message with a title of two to five words. Answer with the title alone.\n\n"
# Small models do not understand what a title is; they go on with a list of them.
_EXAMPLES = (
    ("How do I boil an egg so that the yolk stays soft?", "Soft-Boiled Eggs"),
    ("Write a cover letter for a job as a nurse.", "Cover Letter for a Nurse"),
    ("my bike chain keeps falling off, what can I do?", "Bike Chain Falling Off"),
    ("怎样写一封请假邮件?", "请假邮件写法"),
    ("Explain what a tide table is.", "Tide Tables Explained"),
)
_PARAMS = SamplingParams(max_tokens=20, temperature=0.0, stop=("\n",))
_MAX_CHARACTERS, _MAX_WORDS = 60, 8
# Words that say nothing about what a message is about, so that a title may have them whatever the message says.
_EMPTY = {
    "a",
    "an",
    "and",
    "as",
    "at",
    "by",
    "for",
    "from",
    "how",
    "in",
    "is",
    "of",
    "on",
    "or",
    "the",
    "to",
    "with",
}
_EMPTY |= {"do", "what", "why", "about", "explained", "guide", "help", "ideas", "tips"}
# A word, or one character where words are not set apart.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_STEM = 4
# U+FFFD is what half a character is shown as.
_EDGES = " \"'“”‘’.,;-\u3002\uff1a:\ufffd"


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
    try:
        conversation.title_generation = inference.start_generation(
            workspace=conversation.workspace,
            user_id=conversation.user_id,
            # What a model was fine-tuned to say is seldom a title, and the default one is always there.
            model=inference.default_model(),
            messages=_prompt(_first_message(conversation)),
            params=_PARAMS,
            purpose="title",
        )
    except UserError:
        return  # too much is waiting: the first words are title enough
    conversation.save(update_fields=["title_generation"])


def _take_title(generation: Generation) -> None:
    named = Conversation.objects.filter(title_generation=generation, title_source="first_words")
    conversation = named.first() if generation.state == Generation.State.COMPLETE else None
    if conversation is None:
        return
    title = clean_title(generation.text, _first_message(conversation))
    if title and named.update(title=title, title_source="model"):
        conversation.title = title
        transaction.on_commit(lambda: title_changed(conversation))


def _first_message(conversation: Conversation) -> str:
    said = conversation.messages.filter(role=Message.Role.USER).order_by("position")
    return said.values_list("text", flat=True)[0]


def _prompt(message: str) -> list[dict[str, str]]:
    """The task as a conversation that has gone well a few times. No system message: not every template has one."""
    turns: list[dict[str, str]] = []
    for text, title in (*_EXAMPLES, (message[:1000], "")):
        task = "" if turns else _TASK
        turns.append({"role": "user", "content": f"{task}Message: {text}\nTitle:"})
        turns.append({"role": "assistant", "content": title})
    return turns[:-1]


def clean_title(text: str, message: str) -> str:
    """A model's answer as a title for a message, or "" where it is none.

    It is none where it is too long, or where most of it is not in the message: then it is an answer, or a fancy.
    """
    line = text.strip().split("\n")[0]
    line = re.sub(r"^(title|topic|标题)\s*[:\uff1a]\s*", "", line, flags=re.IGNORECASE)
    line = re.sub(r"[*_`#]", "", line)
    if len(line.split()) > 5:
        line = re.split(r":\s", line)[0]  # a subtitle
    line = " ".join(line.strip(_EDGES).split())
    fits = 2 <= len(line) <= _MAX_CHARACTERS and len(line.split()) <= _MAX_WORDS and "\ufffd" not in line
    return line if fits and _is_about(line, message) else ""


def _is_about(title: str, message: str) -> bool:
    said = {_stem(word) for word in _WORD.findall(message)}
    words = [word for word in _WORD.findall(title) if word.lower() not in _EMPTY]
    if any(word[0].isdigit() and _stem(word) not in said for word in words):
        return False  # the result of a sum, and not always the right one
    return bool(words) and sum(_stem(word) in said for word in words) * 3 >= len(words) * 2


def _stem(word: str) -> str:
    """Near enough: "reversal" is "reverse". Numbers are themselves."""
    word = word.lower()
    return word if word[0].isdigit() or len(word) <= _STEM else word[:_STEM]
