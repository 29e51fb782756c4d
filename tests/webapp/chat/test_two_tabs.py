"""Two tabs, or a tab and a worker, at the same conversation at once; and one person at very many."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from inference import services as inference
from inference.models import Generation, ServedModel, Worker
from inference.stream import STALE, Append, encode_event
from tests.inference.test_generations import claimed, worker
from tests.services import Valkey
from webapp.accounts.models import Membership, User, Workspace
from webapp.chat import access, services, titles
from webapp.chat.models import Conversation, Message
from webapp.core.errors import NotFound, UserError

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def model(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=100, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip


def send(user: User, workspace: Workspace, conversation: Conversation | None = None) -> services.Sent:
    return services.send_message(
        user=user,
        workspace=workspace,
        conversation_id=conversation.id if conversation else None,
        client_id=uuid.uuid4(),
        text="Hello",
    )


def reply_of(sent: services.Sent) -> Message:
    return access.get_reply(sent.conversation.user, sent.reply.id)


def as_seen_by_another_tab(sent: services.Sent) -> tuple[Conversation, Message]:
    user = sent.conversation.user
    return access.get_conversation(user, sent.conversation.id), reply_of(sent)


ACTS: dict[str, Callable[[Conversation, Message], Any]] = {
    "rename": lambda conversation, reply: services.rename_conversation(
        conversation=conversation, title="New"
    ),
    "delete": lambda conversation, reply: services.delete_conversation(conversation=conversation),
    "retry": lambda conversation, reply: services.retry_reply(reply=reply),
}


@pytest.mark.parametrize("act", ACTS)
def test_what_another_tab_deleted_in_the_meantime_does_not_exist(
    act: str, alice: User, workspace: Workspace
) -> None:
    sent = send(alice, workspace)
    seen = as_seen_by_another_tab(sent)
    services.delete_conversation(conversation=sent.conversation)
    with pytest.raises(NotFound):
        ACTS[act](*seen)
    assert not Conversation.objects.exists()


def test_stopping_a_reply_another_tab_deleted_is_no_error(alice: User, workspace: Workspace) -> None:
    sent = send(alice, workspace)
    _, reply = as_seen_by_another_tab(sent)
    services.delete_conversation(conversation=sent.conversation)
    services.stop_reply(reply=reply)


def test_only_the_first_of_two_retries_starts_the_reply_again(alice: User, workspace: Workspace) -> None:
    sent = send(alice, workspace)
    services.stop_reply(reply=reply_of(sent))
    first, second = reply_of(sent), reply_of(sent)
    services.retry_reply(reply=first)
    with pytest.raises(UserError) as refused:
        services.retry_reply(reply=second)
    assert refused.value.code == "not_retryable"


def test_nobody_has_more_than_a_few_unfinished_replies(alice: User, bob: User, workspace: Workspace) -> None:
    sent = [send(alice, workspace) for _ in range(services.MAX_UNFINISHED_REPLIES)]
    with pytest.raises(UserError) as refused:
        send(alice, workspace, sent[0].conversation)
    assert (refused.value.code, refused.value.status) == ("too_many_replies", 429)
    assert refused.value.retry_after
    send(bob, workspace)
    services.stop_reply(reply=reply_of(sent[0]))
    send(alice, workspace)
    with pytest.raises(UserError) as refused:
        services.retry_reply(reply=reply_of(sent[0]))
    assert refused.value.code == "too_many_replies"


def test_tabs_that_send_at_once_are_counted_together(alice: User, workspace: Workspace) -> None:
    for _ in range(services.MAX_UNFINISHED_REPLIES - 1):
        send(alice, workspace)
    outcomes: list[str] = []
    together = threading.Barrier(3)

    def tab() -> None:
        together.wait(10)
        try:
            send(alice, workspace)
            outcomes.append("sent")
        except UserError as error:
            outcomes.append(error.code)
        finally:
            connection.close()

    tabs = [threading.Thread(target=tab) for _ in range(3)]
    for each in tabs:
        each.start()
    for each in tabs:
        each.join(20)
    assert sorted(outcomes) == ["sent", "too_many_replies", "too_many_replies"]


def test_a_deleted_conversation_leaves_nothing_in_the_log_and_its_worker_is_refused(
    alice: User, workspace: Workspace, broker: Valkey
) -> None:
    sent = send(alice, workspace)
    generation = claimed(Generation.objects.get(), worker())
    log = inference.token_log()
    entries = [(1, encode_event(1, "text", {"text": "a secret", "ids": [1]}))]
    assert log.append([Append(str(generation.id), 1, entries)]) == [1]
    services.delete_conversation(conversation=sent.conversation)
    assert log.append([Append(str(generation.id), 1, entries)]) == [STALE]
    assert log.read(generation.id) == []
    assert not inference.finish_generation(generation=generation, state="complete", text="a secret")
    assert not Generation.objects.exists()


@pytest.mark.parametrize("act", ["delete", "retry"])
def test_what_was_deleted_or_said_anew_leaves_nothing_in_the_cache(
    act: str, alice: User, workspace: Workspace, broker: Valkey
) -> None:
    sent = send(alice, workspace)
    Generation.objects.update(state="complete", text="a **secret** of mine")
    alice_browser = Client()
    alice_browser.force_login(alice)
    assert "<strong>secret" in alice_browser.get(f"/c/{sent.conversation.id}/").content.decode()

    def cached() -> str:
        with broker.client() as client:
            return repr([client.get(key) for key in client.keys("fw:cache*")])

    assert "secret" in cached()
    ACTS[act](*as_seen_by_another_tab(sent))
    assert "secret" not in cached()


def test_a_reply_that_ends_while_its_conversation_is_deleted_harms_neither(
    alice: User, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = send(alice, workspace)
    generation = claimed(Generation.objects.get(), worker())
    errors: list[BaseException] = []
    ending, deleting = threading.Event(), threading.Event()
    usual = titles._ask_for_title

    def ask_while_it_is_being_deleted(generation: Generation) -> None:
        ending.set()
        deleting.wait(2)  # on PostgreSQL the deletion now waits for us, on SQLite for its turn
        usual(generation)

    def delete() -> None:
        ending.wait(10)
        threading.Timer(0.5, deleting.set).start()
        try:
            services.delete_conversation(conversation=sent.conversation)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    monkeypatch.setattr(titles, "_ask_for_title", ask_while_it_is_being_deleted)
    other = threading.Thread(target=delete)
    other.start()
    assert inference.finish_generation(generation=generation, state="complete", text="Done.")
    other.join(20)
    assert errors == []
    assert not Conversation.objects.exists()
    assert not Generation.objects.exists()


def test_a_stop_is_not_lost_when_the_reply_is_handed_over_at_that_moment(
    alice: User, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = send(alice, workspace)
    mine = claimed(Generation.objects.get(), worker())
    seen = Generation.objects.get()
    monkeypatch.setattr(
        "inference.services.Generation.objects.filter",
        _release_first(Generation.objects.filter, mine),
    )
    inference.cancel_generation(generation_id=seen.id)
    monkeypatch.undo()
    row = Generation.objects.get(chat_message=sent.reply)
    assert row.state == "cancelled" or row.cancel_requested


def _release_first(usual: Any, mine: Generation) -> Any:
    """`filter`, whose second use finds that the worker has just given the generation back."""
    uses: list[int] = []

    def filter_(*args: Any, **kwargs: Any) -> Any:
        uses.append(1)
        if len(uses) == 2:
            usual(id=mine.id).update(state="queued", worker=None)
        return usual(*args, **kwargs)

    return filter_


def test_leaving_the_workspace_ends_what_may_be_done_to_a_reply_but_not_the_reply(
    alice: User, bob: User, workspace: Workspace
) -> None:
    sent = send(bob, workspace)
    generation = claimed(Generation.objects.get(), worker())
    Membership.objects.filter(user=bob).delete()
    with pytest.raises(NotFound):
        access.get_reply(bob, sent.reply.id)
    assert inference.finish_generation(generation=generation, state="complete", text="Done.")


def test_a_search_reads_nobody_elses_messages(alice: User, workspace: Workspace) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        access.list_conversations(alice, workspace, query="hello")
    sql = queries[0]["sql"]
    inner = sql[sql.index(" IN (SELECT") :]
    assert alice.pk.hex in inner.replace("-", "")


def test_what_was_deleted_cannot_be_claimed(alice: User, workspace: Workspace) -> None:
    send(alice, workspace)
    generation = Generation.objects.get()
    at_work: Worker = worker()
    Message.objects.all().delete()
    Generation.objects.all().delete()
    assert inference.claim_generation(generation_id=generation.id, worker_id=at_work.id) is None
