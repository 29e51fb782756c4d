"""Deleting a person takes every word they wrote and were answered with."""

from __future__ import annotations

import uuid

import pytest

from inference.models import Generation, ServedModel
from webapp.accounts.erasure import erase_user
from webapp.accounts.models import User, Workspace
from webapp.chat.models import Conversation, Message
from webapp.chat.services import retry_reply, send_message

pytestmark = pytest.mark.django_db(transaction=True)


def talk(user: User, workspace: Workspace, text: str) -> Message:
    """One exchange, answered once, answered again, and being named."""
    sent = send_message(
        user=user, workspace=workspace, conversation_id=None, client_id=uuid.uuid4(), text=text
    )
    Generation.objects.filter(id=sent.reply.generation_id).update(state="complete", text=f"About {text}")
    reply = Message.objects.select_related("generation", "conversation__workspace").get(id=sent.reply.id)
    retry_reply(reply=reply)
    title = Generation.objects.create(
        workspace=workspace, model=ServedModel.objects.get(), messages=[{"content": text}], purpose="title", seed=1,
        deadline=sent.message.created_at, sent_at=sent.message.created_at,
    )  # fmt: skip
    Conversation.objects.filter(id=sent.conversation.id).update(title_generation=title)
    return reply


def test_no_word_of_an_erased_person_is_left(
    workspace: Workspace, bob: User, alice: User, model: ServedModel
) -> None:
    talk(bob, workspace, "Bob's secret")
    talk(alice, workspace, "Alice's words")
    report = erase_user(user=bob)
    assert any(line.count == 1 and "Conversations" in line.what for line in report)
    assert Conversation.objects.get().user == alice
    left = repr(list(Generation.objects.values_list("messages", "text"))) + repr(
        list(Message.objects.values_list("text"))
    )
    assert "secret" not in left
    assert "Alice" in left
    assert Generation.objects.count() == 2


def test_a_workspace_goes_with_its_last_member_whoever_once_talked_there(
    elsewhere: Workspace, charlie: User, bob: User, model: ServedModel
) -> None:
    membership = elsewhere.memberships.create(user=bob)
    talk(bob, elsewhere, "from the time Bob was here")
    talk(charlie, elsewhere, "mine")
    membership.delete()
    erase_user(user=charlie)
    assert not Workspace.objects.filter(id=elsewhere.id).exists()
    assert Generation.objects.count() == 0
