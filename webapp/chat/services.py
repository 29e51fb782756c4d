"""Every write to conversations and messages. What these return is committed; what follows happens on commit."""

from __future__ import annotations

import uuid
from functools import partial
from typing import NamedTuple

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from inference import services as inference
from inference.access import get_model
from inference.models import Generation, ServedModel
from inference.parameters import SamplingParams
from webapp.accounts import limits
from webapp.accounts.models import ApiKey, User, Workspace
from webapp.chat import access, rendered
from webapp.chat.history import Said, history
from webapp.chat.models import Conversation, Message
from webapp.core import sql
from webapp.core.errors import NotFound, UserError
from webapp.core.locks import lock_until_commit

# Longer pastes are answered at once, with their length, instead of being tokenised first.
MAX_MESSAGE_CHARACTERS = 100_000
_TITLE_CHARACTERS = 60
MAX_TITLE_CHARACTERS = 120
# Replies of one person that wait or grow at once: more tabs than anybody reads, and no one's site is theirs alone.
MAX_UNFINISHED_REPLIES = 8
# How it is sampled is the model's own business: its generation_config says.
CHAT_PARAMS = SamplingParams(max_tokens=1024)


class Sent(NamedTuple):
    conversation: Conversation
    message: Message
    reply: Message
    is_new: bool  # False where this client_id was accepted before: a repeat changes nothing


def send_message(
    *,
    user: User,
    workspace: Workspace | None,
    conversation_id: uuid.UUID | str | None,
    client_id: uuid.UUID,
    text: str,
    model: str = "",
    title: str = "",
    api_key: ApiKey | None = None,
) -> Sent:
    """Stores what a person wrote and the reply to come, and starts it. Safe to repeat with the same `client_id`.

    Without a `conversation_id` a new conversation is begun, in `workspace`, and stays with the model begun with: the
    one with the id `model`, which the workspace has to have, or the site's default. Its `title` stays, too, where one
    is given. `api_key`: what a program sent it with.
    Raises NotFound, and UserError `message_empty`, `message_too_long`, `too_many_replies`,
    `no_model`, `busy`, `rate_limit_exceeded`, `quota_exceeded`.
    """
    text = clean_text(text)
    if not text.strip():
        raise UserError("message_empty", _("Write something first."))
    if len(text) > MAX_MESSAGE_CHARACTERS:
        raise UserError(
            "message_too_long",
            _("This message has %(count)s characters; the most is %(most)s. Shorten it, or send it in parts.")
            % {"count": f"{len(text):,}", "most": f"{MAX_MESSAGE_CHARACTERS:,}"},
        )
    try:
        with transaction.atomic():
            _limit_replies(user.pk)
            if conversation_id is None:
                assert workspace is not None
                chosen = get_model(workspace, model) if model else None
                conversation, said = _begin(user, workspace, text, chosen, one_line(title)), Said([], 0)
                answering = chosen or inference.default_model()
            else:
                conversation = access.get_conversation(user, conversation_id, for_update=True)
                answering = _model_of(conversation)
                said = history(conversation, answering, beside=len(text))
                conversation.updated_at = timezone.now()
                sql.execute(
                    "UPDATE chat_conversation SET updated_at = %s WHERE id = %s",
                    conversation.updated_at,
                    conversation.pk,
                )
            turns = [*said.turns, {"role": Message.Role.USER.value, "content": text}]
            message = Message(
                conversation=conversation,
                position=said.next_position,
                role=Message.Role.USER,
                text=text,
                client_id=client_id,
            )
            reply = Message(
                conversation=conversation,
                position=said.next_position + 1,
                role=Message.Role.ASSISTANT,
                generation=_generation(conversation, answering, turns, api_key),
            )
            Message.objects.bulk_create([message, reply])
            _admit(reply, turns)
    except (IntegrityError, UserError) as error:
        # The same message came before, or comes over two sockets at once and the other one won. What was accepted
        # once stays accepted, also where one more could not be.
        repeated = _sent_before(user, client_id)
        if repeated is not None:
            return repeated
        if isinstance(error, UserError):
            raise
        raise UserError(
            "client_id_taken", _("This message could not be told from another one. Send it again.")
        )
    return Sent(conversation, message, reply, True)


def retry_reply(*, reply: Message, api_key: ApiKey | None = None) -> Message:
    """Starts a reply anew that has ended.

    Raises NotFound; UserError `not_retryable`, `too_many_replies`, `busy`, `rate_limit_exceeded`, `quota_exceeded`.
    """
    assert reply.generation is not None
    with transaction.atomic():
        _limit_replies(reply.conversation.user_id)
        conversation = _locked(reply.conversation)
        reply.refresh_from_db(fields=["generation"])
        model = _model_of(conversation)
        said = history(conversation, model, without=reply)
        last = said.next_position - 1
        if reply.generation is None or not reply.generation.is_finished or reply.position != last:
            raise UserError("not_retryable", _("Only the last reply can be tried again, once it has ended."))
        before = reply.generation
        reply.generation = _generation(conversation, model, said.turns, api_key)
        reply.save(update_fields=["generation"])
        inference.delete_generations(ids=[before.id])
        transaction.on_commit(partial(rendered.forget, [before.text]))
        _admit(reply, said.turns)
    return reply


def stop_reply(*, reply: Message) -> None:
    """Ends a reply that waits or runs; what it said so far is kept. Stopping a finished one is no error."""
    assert reply.generation_id is not None
    with transaction.atomic():
        inference.cancel_generation(generation_id=reply.generation_id)


def rename_conversation(*, conversation: Conversation, title: str) -> Conversation:
    """Raises NotFound, and UserError `title_empty`."""
    title = one_line(title)
    if not title:
        raise UserError("title_empty", _("A conversation needs a name."))
    conversation.title, conversation.title_source = title, "person"
    if not Conversation.objects.filter(pk=conversation.pk).update(title=title, title_source="person"):
        raise _gone()  # deleted in another tab
    return conversation


def delete_conversation(*, conversation: Conversation) -> None:
    """Deletes it with its messages and their generations, and stops what still runs. Raises NotFound."""
    with transaction.atomic():
        # Generations first, then the conversation: the order in which a reply that ends takes these locks.
        list(Generation.objects.select_for_update().filter(id__in=_generation_ids(conversation)))
        conversation = _locked(conversation)
        generations = _generation_ids(conversation)
        said = Generation.objects.filter(id__in=generations).exclude(text="")
        transaction.on_commit(partial(rendered.forget, list(said.values_list("text", flat=True))))
        conversation.delete()
        inference.delete_generations(ids=generations)


def _generation_ids(conversation: Conversation) -> list[uuid.UUID]:
    replies = conversation.messages.exclude(generation=None).values_list("generation_id", flat=True)
    titles = Conversation.objects.filter(pk=conversation.pk).values_list("title_generation_id", flat=True)
    return [generation_id for generation_id in (*replies, *titles) if generation_id is not None]


def clean_text(text: str) -> str:
    """Text that any database stores: NUL and lone surrogates become U+FFFD, line breaks become line feeds."""
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text.replace("\x00", "\ufffd").replace("\r\n", "\n").replace("\r", "\n")


def one_line(text: str) -> str:
    """One line of what somebody typed; "" where that is nothing."""
    return " ".join(clean_text(text).split())[:MAX_TITLE_CHARACTERS]


def first_words(text: str) -> str:
    """A provisional title: the beginning of the first message, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= _TITLE_CHARACTERS:
        return line
    cut = line[:_TITLE_CHARACTERS]
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut) + "…"


def _begin(
    user: User, workspace: Workspace, text: str, model: ServedModel | None, title: str
) -> Conversation:
    return Conversation.objects.create(
        user=user,
        workspace=workspace,
        title=title or first_words(text),
        title_source="person" if title else "first_words",
        model=model,
        updated_at=timezone.now(),
    )


def _model_of(conversation: Conversation) -> ServedModel:
    """The one it was begun with; the default where that has been removed."""
    if conversation.model_id is not None:
        model = ServedModel.objects.filter(pk=conversation.model_id, removed_at=None).first()
        if model is not None:
            return model
    return inference.default_model()


def _locked(conversation: Conversation) -> Conversation:
    """The row, locked until the transaction ends, so that positions stay dense (SQLite locks as a whole).

    Raises NotFound where another tab has deleted it since it was read.
    """
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("workspace")
    locked = rows.filter(pk=conversation.pk).first()
    if locked is None:
        raise _gone()
    return locked


def _gone() -> NotFound:
    return NotFound(_("That conversation"))


def _limit_replies(user_id: uuid.UUID) -> None:
    """Call it first in a transaction: two tabs that send at once are counted one after the other."""
    lock_until_commit(f"chat.replies.{user_id}")
    [(growing,)] = sql.fetch(
        "SELECT COUNT(*) FROM inference_generation JOIN chat_message ON generation_id = inference_generation.id"
        " JOIN chat_conversation ON conversation_id = chat_conversation.id"
        " WHERE state IN ('queued', 'running') AND chat_conversation.user_id = %s",
        user_id,
    )
    if growing >= MAX_UNFINISHED_REPLIES:
        raise UserError(
            "too_many_replies",
            _("%(limit)s answers to you are being written already. Wait for one to finish, or stop one.")
            % {"limit": MAX_UNFINISHED_REPLIES},
            status=429,
            retry_after=5,
        )


def _sent_before(user: User, client_id: uuid.UUID) -> Sent | None:
    found = Message.objects.select_related("conversation__workspace").filter(
        client_id=client_id, conversation__user=user, role=Message.Role.USER
    )
    message = found.first()
    if message is None:
        return None
    reply = Message.objects.select_related("generation__model").get(
        conversation=message.conversation, position=message.position + 1
    )
    return Sent(message.conversation, message, reply, False)


def _as_text(turns: list[dict[str, str]]) -> str:
    """For a model that goes on with a text: what was written so far by both, and what a person adds, in a new line."""
    text = ""
    for turn in turns:
        begins_anew = text and turn["role"] == Message.Role.USER
        text += ("\n" if begins_anew else "") + turn["content"]
    return text


def _generation(
    conversation: Conversation, model: ServedModel, turns: list[dict[str, str]], api_key: ApiKey | None
) -> Generation:
    goes_on = model.kind == ServedModel.Kind.TEXT
    return inference.start_generation(
        workspace=conversation.workspace,
        user_id=conversation.user_id,
        api_key=api_key,
        model=model,
        messages=None if goes_on else turns,
        prompt=_as_text(turns) if goes_on else None,
        params=CHAT_PARAMS,
    )


def _admit(reply: Message, turns: list[dict[str, str]]) -> None:
    """Call it last in the transaction: what is refused for any other reason counts nothing."""
    assert reply.generation is not None
    assert CHAT_PARAMS.max_tokens is not None
    limits.admit(
        workspace_id=reply.generation.workspace_id,
        user_id=reply.generation.user_id,
        api_key_id=reply.generation.api_key_id,
        tokens=limits.estimate_tokens((turn["content"] for turn in turns), CHAT_PARAMS.max_tokens),
        slot=reply.generation.id,
    )
