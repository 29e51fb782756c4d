"""What generations used: counted once, when they end, by day, person, key, model and source; and kept."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from inference import services, worker_services
from inference.models import NOBODY, Generation, ServedModel, UsageDay, Worker
from inference.signals import generation_ended
from inference.stream import Append, encode_event
from webapp.accounts.api_keys import create_key
from webapp.accounts.erasure import erase_user
from webapp.accounts.models import ApiKey, User, Workspace
from webapp.chat.models import Message
from webapp.chat.services import delete_conversation, retry_reply, send_message

pytestmark = pytest.mark.django_db(transaction=True)
State = Generation.State
USED = {"prompt_tokens": 10, "completion_tokens": 5}


@pytest.fixture
def model(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=8192, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip


@pytest.fixture
def key(workspace: Workspace, bob: User) -> ApiKey:
    return create_key(user=bob, workspace=workspace, name="script", scopes=["chat"])[0]


def begun(workspace: Workspace, model: ServedModel, **fields: Any) -> Generation:
    messages = [{"role": "user", "content": "Hello"}]
    return services.start_generation(workspace=workspace, model=model, **{"messages": messages, **fields})


def claimed(generation: Generation, *, lease: float = 60) -> Generation:
    expires = timezone.now() + timedelta(seconds=lease)
    worker = Worker.objects.create(hostname="here", pid=1, lease_expires_at=expires)
    mine = services.claim_generation(generation_id=generation.id, worker_id=worker.id)
    assert mine is not None
    return mine


def ended(generation: Generation, state: str = State.COMPLETE, **fields: Any) -> None:
    assert services.finish_generation(generation=claimed(generation), state=state, **(fields or USED))


def log(generation: Generation, *texts: str, prompt_tokens: int = 10) -> None:
    """What a worker logged before it died."""
    events = [
        ("admitted", {"prompt_tokens": prompt_tokens}),
        *(("text", {"text": text, "ids": [7]}) for text in texts),
    ]
    entries = [(seq, encode_event(generation.attempt, *event)) for seq, event in enumerate(events, 1)]
    services.token_log().append([Append(str(generation.id), generation.attempt, entries)])


def days(**of: Any) -> list[tuple[int, int, int]]:
    rows = UsageDay.objects.filter(**of).order_by("id")
    return list(rows.values_list("requests", "prompt_tokens", "completion_tokens"))


def test_it_is_counted_by_day_person_key_model_and_source(
    workspace: Workspace, model: ServedModel, alice: User, bob: User, key: ApiKey
) -> None:
    for _ in range(2):
        ended(begun(workspace, model, user_id=alice.pk))
    ended(begun(workspace, model, user_id=bob.pk, api_key=key, purpose="api"))
    ended(begun(workspace, model, user_id=bob.pk, api_key=key, purpose="embedding"), prompt_tokens=3)
    ended(begun(workspace, model, purpose="widget"))
    today = timezone.now().date()
    rows = UsageDay.objects.order_by("id").values_list(
        "workspace", "day", "user_id", "api_key_id", "model_name", "source"
    )
    assert list(rows) == [
        (workspace.pk, today, alice.pk, NOBODY, "demo", "chat"),
        (workspace.pk, today, bob.pk, key.pk, "demo", "api"),
        (workspace.pk, today, NOBODY, NOBODY, "demo", "widget"),
    ]
    assert days() == [(2, 20, 10), (2, 13, 5), (1, 10, 5)]


def test_the_day_is_the_one_it_ended_on_in_utc(
    workspace: Workspace, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = claimed(begun(workspace, model))
    midnight = datetime(2026, 12, 1, tzinfo=UTC)
    monkeypatch.setattr(timezone, "now", lambda: midnight - timedelta(microseconds=1))
    services.finish_generation(generation=mine, state=State.COMPLETE, **USED)
    other = claimed(begun(workspace, model))
    monkeypatch.setattr(timezone, "now", lambda: midnight)
    services.finish_generation(generation=other, state=State.COMPLETE, **USED)
    found = UsageDay.objects.order_by("day").values_list("day", "requests")
    assert list(found) == [(date(2026, 11, 30), 1), (date(2026, 12, 1), 1)]


def test_it_is_counted_with_the_end_or_not_at_all(workspace: Workspace, model: ServedModel) -> None:
    mine = claimed(begun(workspace, model))

    def fail(**_: Any) -> None:
        raise RuntimeError

    generation_ended.connect(fail)
    try:
        with pytest.raises(RuntimeError):
            services.finish_generation(generation=mine, state=State.COMPLETE, **USED)
    finally:
        generation_ended.disconnect(fail)
    assert days() == []
    with transaction.atomic():
        services.finish_generation(generation=mine, state=State.COMPLETE, **USED)
        transaction.set_rollback(True)
    assert days() == []
    assert services.finish_generation(generation=mine, state=State.COMPLETE, **USED)
    assert days() == [(1, 10, 5)]


def test_only_the_attempt_that_ends_it_counts(workspace: Workspace, model: ServedModel) -> None:
    queued = begun(workspace, model)
    old = claimed(queued, lease=-1)
    worker_services.reap()
    new = claimed(queued)
    assert not services.finish_generation(generation=old, state=State.COMPLETE, **USED)
    assert services.finish_generation(generation=new, state=State.COMPLETE, **USED)
    assert not services.finish_generation(generation=new, state=State.COMPLETE, **USED)
    services.cancel_generation(generation_id=queued.id)
    worker_services.reap()
    assert days() == [(1, 10, 5)]


def test_what_was_refused_or_never_began_counts_nothing(workspace: Workspace, model: ServedModel) -> None:
    ended(begun(workspace, model), State.REFUSED, error_code="prompt_too_long", error_message="Too long.")
    services.cancel_generation(generation_id=begun(workspace, model).id)
    begun(workspace, model)
    Generation.objects.filter(state=State.QUEUED).update(deadline=timezone.now())
    worker_services.reap()
    assert Generation.objects.filter(state=State.FAILED).exists()
    assert days() == []


def test_what_was_stopped_counts_what_it_made(workspace: Workspace, model: ServedModel) -> None:
    ended(begun(workspace, model), State.CANCELLED, prompt_tokens=10, completion_tokens=2)
    assert days() == [(1, 10, 2)]


def test_what_broke_off_counts_what_its_dead_workers_logged(workspace: Workspace, model: ServedModel) -> None:
    queued = begun(workspace, model)
    Generation.objects.update(crashes=2)
    log(claimed(queued, lease=-1), "so ", "far")
    worker_services.reap()
    queued.refresh_from_db()
    assert (queued.state, queued.prompt_tokens) == (State.INTERRUPTED, 10)
    assert days() == [(1, 10, 2)]


def test_a_title_is_the_workspaces_and_no_request_of_anybodys(
    workspace: Workspace, model: ServedModel, alice: User
) -> None:
    ended(begun(workspace, model, user_id=alice.pk, purpose="title"))
    assert days(user_id=NOBODY, source="chat") == [(0, 10, 5)]
    assert days(user_id=alice.pk) == []


def test_choices_of_one_prompt_are_one_request_and_their_prompt_counts_once(
    workspace: Workspace, model: ServedModel
) -> None:
    call: dict[str, Any] = {"call_id": uuid.uuid4(), "purpose": "api"}
    choices = [begun(workspace, model, choice=n, **call) for n in range(3)]
    for choice in reversed(choices):
        ended(choice)
    assert days() == [(1, 10, 15)]


def test_every_prompt_of_a_call_counts(workspace: Workspace, model: ServedModel) -> None:
    call: dict[str, Any] = {"call_id": uuid.uuid4(), "purpose": "api", "messages": None}
    for n, prompt in enumerate(["one", "one", "two", [1, 2], [1, 2]]):
        ended(begun(workspace, model, choice=n, prompt=prompt, **call))
    assert days() == [(1, 30, 25)]
    embedded: dict[str, Any] = {"call_id": uuid.uuid4(), "purpose": "embedding", "messages": None}
    for n in range(2):
        ended(begun(workspace, model, choice=n, prompt="the same", **embedded), prompt_tokens=10)
    assert days() == [(2, 50, 25)]


def say(user: User, workspace: Workspace) -> Message:
    sent = send_message(
        user=user, workspace=workspace, conversation_id=None, client_id=uuid.uuid4(), text="Hello"
    )
    return Message.objects.select_related("conversation", "generation").get(pk=sent.reply.pk)


def test_a_conversation_that_is_deleted_stays_counted(
    workspace: Workspace, model: ServedModel, alice: User
) -> None:
    reply = say(alice, workspace)
    assert reply.generation is not None
    ended(reply.generation)
    delete_conversation(conversation=reply.conversation)
    assert days(user_id=alice.pk) == [(1, 10, 5)]


def test_a_reply_that_is_tried_again_counts_twice(
    workspace: Workspace, model: ServedModel, alice: User
) -> None:
    reply = say(alice, workspace)
    assert reply.generation is not None
    ended(reply.generation)
    again = retry_reply(reply=Message.objects.select_related("conversation").get(pk=reply.pk))
    assert again.generation is not None
    ended(again.generation)
    assert days(user_id=alice.pk) == [(2, 20, 10)]


def test_a_conversation_that_is_deleted_while_a_reply_grows_counts_what_it_made(
    workspace: Workspace, model: ServedModel, alice: User
) -> None:
    reply = say(alice, workspace)
    assert reply.generation is not None
    mine = claimed(reply.generation)
    log(mine, "so ", "far", "and ")
    delete_conversation(conversation=reply.conversation)
    assert not services.finish_generation(generation=mine, state=State.COMPLETE, **USED)
    assert days(user_id=alice.pk) == [(1, 10, 3)]


def test_what_an_erased_person_used_stays_with_their_workspace_as_nobodys(
    workspace: Workspace, model: ServedModel, alice: User, bob: User, key: ApiKey
) -> None:
    ended(begun(workspace, model, user_id=alice.pk))
    ended(begun(workspace, model, user_id=bob.pk))
    ended(begun(workspace, model, user_id=bob.pk, api_key=key, purpose="api"))
    reply = say(bob, workspace)
    assert reply.generation is not None
    log(claimed(reply.generation), "so ", "far")
    elsewhere = begun(workspace, model, user_id=bob.pk, api_key=key, purpose="api")
    mine = claimed(elsewhere)
    lines = erase_user(user=bob)
    assert any(line.count == 2 and "usage" in line.what for line in lines)
    assert services.finish_generation(generation=mine, state=State.COMPLETE, **USED)
    assert days(user_id=alice.pk) == [(1, 10, 5)]
    assert sorted(days(user_id=NOBODY, api_key_id=NOBODY)) == [(2, 20, 7), (2, 20, 10)]
    assert UsageDay.objects.count() == 3
