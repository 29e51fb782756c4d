"""Messages and list entries as HTML: the same for a page, for a frame of the socket, and for the end of a reply.

A finished reply's Markdown never changes, so it is rendered once and kept (`rendered`).
"""

from __future__ import annotations

from dataclasses import dataclass

from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe

from inference.models import Generation
from webapp.chat import rendered
from webapp.chat.endings import ending
from webapp.chat.markdown import render, split
from webapp.chat.models import Conversation, Message


@dataclass(frozen=True)
class Reply:
    """What the template shows of a reply."""

    state: str
    attempt: int
    blocks: list[SafeString]
    sentence: str  # what a person should know about how it ended; "" for an ordinary end
    is_error: bool
    is_refused: bool  # the same again would be refused again: what helps is another message
    model: str
    model_name: str  # in full, where what people call it is short

    @property
    def is_finished(self) -> bool:
        return self.state in Generation.TERMINAL


def render_message(message: Message, conversation: Conversation, blocks: list[str] | None = None) -> str:
    """One message as an `<article>`, in the active language; `blocks` is a reply's HTML where it is known already."""
    reply = _reply(message.generation, blocks) if message.generation is not None else None
    return render_to_string(
        "chat/message.html", {"message": message, "conversation": conversation, "reply": reply}
    )


def render_list_item(conversation: Conversation) -> str:
    """A conversation's entry in the list."""
    return render_to_string("chat/list_item.html", {"conversation": conversation})


def render_blocks(text: str) -> list[SafeString]:
    """A finished answer, block by block."""
    blocks = rendered.kept(text)
    if blocks is None:
        finished, rest = split(text)
        blocks = [html for html in map(render, [*finished, rest]) if html]
        rendered.keep(text, blocks)
    return _safe(blocks)


def _safe(blocks: list[str]) -> list[SafeString]:
    return [mark_safe(block) for block in blocks]  # noqa: S308 - made safe by webapp.chat.markdown


def _reply(generation: Generation, blocks: list[str] | None) -> Reply:
    sentence, is_error = ending(generation)
    return Reply(
        state=generation.state,
        attempt=generation.attempt,
        blocks=_blocks_of(generation) if blocks is None else _safe(blocks),
        sentence=sentence,
        is_error=is_error,
        is_refused=generation.error_code == "prompt_too_long",
        model=generation.model.label,
        model_name=generation.model.name if generation.model.workspace_id else "",
    )


def _blocks_of(generation: Generation) -> list[SafeString]:
    # What a growing reply says comes over the socket; the row has no text yet.
    return render_blocks(generation.text) if generation.is_finished else []
