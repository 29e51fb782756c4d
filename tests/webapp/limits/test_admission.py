"""Who is let in under which limits, what they are told, and that what was really used is what counts in the end."""

from __future__ import annotations

import json
import logging
import re
import uuid
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from inference import services as inference
from inference import worker_services
from inference.models import Generation, ServedModel, UsageDay
from tests.services import Valkey
from tests.webapp.limits.conftest import limit
from webapp.accounts import limits
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import User, Workspace
from webapp.api import widget_services
from webapp.api.models import WidgetMessage
from webapp.chat.models import Message
from webapp.chat.services import delete_conversation, retry_reply, send_message, stop_reply
from webapp.core.errors import UserError
from webapp.core.middleware import error_response

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("model")]


def say(user: User, workspace: Workspace, text: str = "Hello", client_id: UUID | None = None) -> Message:
    sent = send_message(
        user=user, workspace=workspace, conversation_id=None, client_id=client_id or uuid.uuid4(), text=text
    )
    return Message.objects.select_related("conversation", "generation").get(pk=sent.reply.pk)


def refused(user: User, workspace: Workspace, text: str = "Hello") -> UserError:
    before = Message.objects.count(), Generation.objects.count()
    with pytest.raises(UserError) as error:
        say(user, workspace, text)
    assert error.value.status == 429
    assert (Message.objects.count(), Generation.objects.count()) == before
    return error.value


def ends(reply: Message, *, prompt_tokens: int = 10, completion_tokens: int = 5) -> None:
    worker = worker_services.register_worker(hostname="here", pid=1, serves=None)
    assert reply.generation is not None
    mine = inference.claim_generation(generation_id=reply.generation.id, worker_id=worker.id)
    assert mine is not None
    used = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    assert inference.finish_generation(generation=mine, state="complete", text="Yes.", **used)


def test_who_has_used_their_requests_is_told_whose_limit_it_is_and_when_it_is_free_again(
    workspace: Workspace, alice: User, bob: User
) -> None:
    limit(workspace, user_id=bob.pk, requests_per_minute=2)
    say(bob, workspace)
    say(bob, workspace)
    error = refused(bob, workspace)
    assert error.code == "rate_limit_exceeded"
    assert error.retry_after is not None
    assert 58 <= error.retry_after <= 61
    assert error.message == (
        f"The limit for you is 2 requests a minute. Try again in {error.retry_after} seconds."
    )
    say(alice, workspace)


def test_a_workspaces_limit_is_of_all_its_people_together_and_of_no_other_workspace(
    workspace: Workspace, elsewhere: Workspace, alice: User, bob: User, charlie: User
) -> None:
    limit(workspace, requests_per_minute=2)
    say(alice, workspace)
    say(bob, workspace)
    for person in (alice, bob):
        assert "The limit for this workspace is 2 requests a minute" in refused(person, workspace).message
    say(charlie, elsewhere)


def test_a_key_has_limits_of_its_own_beside_its_persons(workspace: Workspace, bob: User) -> None:
    key, _token = create_key(user=bob, workspace=workspace, name="script", scopes=["chat"])
    limit(workspace, user_id=bob.pk, requests_per_minute=5)
    limit(workspace, api_key_id=key.pk, requests_per_minute=1, tokens_per_minute=1000)
    ask: dict[str, Any] = {
        "workspace_id": workspace.pk,
        "user_id": bob.pk,
        "api_key_id": key.pk,
        "tokens": 100,
    }
    headers = limits.admit(**ask, slot=uuid.uuid4())
    assert headers == {
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": headers["x-ratelimit-reset-requests"],
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": headers["x-ratelimit-reset-requests"],
    }
    assert re.fullmatch(r"(1m)?\d+(\.\d+)?s", headers["x-ratelimit-reset-requests"])
    with pytest.raises(UserError, match="for this API key") as error:
        limits.admit(**ask, slot=uuid.uuid4())
    # What the key's limit refused was not counted as its person's: four are left.
    page = limits.admit(**ask | {"api_key_id": None}, slot=uuid.uuid4())
    assert page["x-ratelimit-remaining-requests"] == "3"

    answer = error_response(RequestFactory().get("/v1/chat/completions"), error.value)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == str(error.value.retry_after)
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    body = json.loads(answer.content)["error"]
    assert (body["type"], body["code"]) == ("rate_limit_error", "rate_limit_exceeded")


def test_what_was_accepted_before_is_neither_refused_nor_counted_when_it_is_sent_again(
    workspace: Workspace, bob: User
) -> None:
    limit(workspace, user_id=bob.pk, requests_per_minute=2)
    first = uuid.uuid4()
    reply = say(bob, workspace, client_id=first)
    for _ in range(3):
        assert say(bob, workspace, client_id=first) == reply
    say(bob, workspace)
    refused(bob, workspace)
    assert say(bob, workspace, client_id=first) == reply


def test_what_is_refused_for_another_reason_counts_nothing(
    workspace: Workspace, bob: User, settings: Any
) -> None:
    limit(workspace, user_id=bob.pk, requests_per_minute=1, concurrent_streams=1)
    settings.INFERENCE_MAX_QUEUED = 0
    with pytest.raises(UserError, match="Too many replies are waiting"):
        say(bob, workspace)
    settings.INFERENCE_MAX_QUEUED = 10
    say(bob, workspace)


def test_a_reply_that_is_asked_for_anew_counts_and_where_it_may_not_stays_as_it_was(
    workspace: Workspace, bob: User
) -> None:
    limit(workspace, user_id=bob.pk, requests_per_minute=2)
    reply = say(bob, workspace)
    ends(reply)
    retried = retry_reply(reply=Message.objects.select_related("conversation").get(pk=reply.pk))
    ends(retried)
    with pytest.raises(UserError, match="2 requests a minute"):
        retry_reply(reply=Message.objects.select_related("conversation").get(pk=reply.pk))
    kept = Message.objects.select_related("generation").get(pk=reply.pk)
    assert kept.generation is not None
    assert kept.generation.text == "Yes."


def test_one_more_answer_at_once_waits_for_one_that_ends_is_stopped_or_deleted(
    workspace: Workspace, bob: User
) -> None:
    limit(workspace, user_id=bob.pk, concurrent_streams=1)
    first = say(bob, workspace)
    error = refused(bob, workspace)
    assert (error.code, error.retry_after) == ("rate_limit_exceeded", 5)
    assert "1 answers at once, and as many are being written" in error.message
    ends(first)
    second = say(bob, workspace)
    stop_reply(reply=second)
    third = say(bob, workspace)
    refused(bob, workspace)
    delete_conversation(conversation=third.conversation)
    say(bob, workspace)


def test_tokens_are_charged_as_they_may_be_and_count_as_they_were(workspace: Workspace, bob: User) -> None:
    limit(workspace, user_id=bob.pk, tokens_per_minute=2500)
    first = say(bob, workspace, "w" * 400)  # a hundred tokens, and an answer of up to 1,024
    say(bob, workspace)
    error = refused(bob, workspace)
    assert "2,500 tokens a minute. 349 are left, and this may take 1,026" in error.message
    ends(first, prompt_tokens=80, completion_tokens=20)
    say(bob, workspace)


def test_what_no_minute_has_room_for_is_said_so_without_a_time(workspace: Workspace, bob: User) -> None:
    limit(workspace, user_id=bob.pk, tokens_per_minute=500)
    error = refused(bob, workspace)
    assert error.retry_after is None
    assert "this alone may take 1,026. Send less" in error.message


def test_a_months_tokens_are_those_in_the_books_and_those_being_written(
    workspace: Workspace, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timezone, "now", lambda: datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC))
    books: dict[str, Any] = {
        "workspace": workspace,
        "model_name": "demo",
        "source": "chat",
        "user_id": bob.pk,
    }
    UsageDay.objects.create(day="2026-11-02", prompt_tokens=6000, completion_tokens=900, **books)
    UsageDay.objects.create(day="2026-10-31", prompt_tokens=90_000, **books)
    limit(workspace, user_id=bob.pk, monthly_tokens=10_000)
    limit(workspace, monthly_tokens=1_000_000)
    first, _second = say(bob, workspace), say(bob, workspace)
    error = refused(bob, workspace, "w" * 400)
    assert (error.code, error.retry_after) == ("quota_exceeded", 30)
    assert (
        "The limit for you is 10,000 tokens a month. 1,048 are left, and this may take 1,125."
        in error.message
    )
    assert "on Dec. 1, 2026" in error.message
    ends(first)
    say(bob, workspace, "w" * 400)
    say(alice, workspace)
    monkeypatch.setattr(timezone, "now", lambda: datetime(2026, 12, 1, tzinfo=UTC))
    say(bob, workspace, "w" * 4000)


def test_what_titles_take_is_the_workspaces_month_and_nobodys_minute(workspace: Workspace, bob: User) -> None:
    limit(workspace, user_id=bob.pk, requests_per_minute=1, concurrent_streams=1)
    reply = say(bob, workspace)
    ends(reply)  # and its title is asked for
    title = Generation.objects.get(purpose="title")
    ends(Message(generation=title), prompt_tokens=100)
    assert UsageDay.objects.get(user_id=bob.pk).prompt_tokens == 10
    with pytest.raises(UserError, match="1 requests a minute"):
        say(bob, workspace)


def test_what_the_site_allows_each_person_holds_in_all_their_workspaces(
    workspace: Workspace, elsewhere: Workspace, bob: User, alice: User, settings: Any
) -> None:
    settings.LIMIT_REQUESTS_PER_MINUTE = 2
    elsewhere.memberships.create(user=bob)
    limit(workspace, user_id=bob.pk, requests_per_minute=100)
    say(bob, workspace)
    say(bob, elsewhere)
    for place in (workspace, elsewhere):
        assert "The limit for each person on this site is 2 requests a minute" in refused(bob, place).message
    say(alice, workspace)


def test_while_the_broker_is_away_people_chat_on_and_the_log_says_that_nothing_is_counted(
    workspace: Workspace, bob: User, broker: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    limit(workspace, user_id=bob.pk, requests_per_minute=1)
    broker.kill()
    ask: dict[str, Any] = {"workspace_id": workspace.pk, "user_id": bob.pk, "api_key_id": None, "tokens": 100}
    with caplog.at_level(logging.WARNING):
        assert [limits.admit(**ask, slot=uuid.uuid4()) for _ in range(3)] == [{}, {}, {}]
        stop_reply(reply=say(bob, workspace))
    assert caplog.text.count("limits are not counted") == 1  # it is not tried again with every message


def test_where_there_are_no_rules_nothing_is_asked(
    workspace: Workspace, bob: User, broker: Valkey, django_assert_num_queries: Any
) -> None:
    ask: dict[str, Any] = {"workspace_id": workspace.pk, "user_id": bob.pk, "api_key_id": None, "tokens": 100}
    assert limits.admit(**ask, slot=uuid.uuid4()) == {}
    broker.kill()
    with django_assert_num_queries(0):
        assert limits.admit(**ask, slot=uuid.uuid4()) == {}
    assert limits._away_until == 0.0


def test_a_stream_whose_end_was_not_heard_holds_nobody_up(
    workspace: Workspace, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(workspace, user_id=bob.pk, concurrent_streams=2)
    lost, _open = say(bob, workspace), say(bob, workspace)
    # As if its worker had been killed between the row and what follows on commit.
    Generation.objects.filter(pk=lost.generation_id).update(state="complete")
    refused(bob, workspace)
    monkeypatch.setattr(limits, "SURELY_BEGUN_SECONDS", -5)
    say(bob, workspace)
    refused(bob, workspace)


def test_a_call_is_one_stream_until_its_last_choice_has_ended(
    workspace: Workspace, bob: User, model: ServedModel
) -> None:
    limit(workspace, user_id=bob.pk, concurrent_streams=1, tokens_per_minute=1000)
    call = uuid.uuid4()
    ask: dict[str, Any] = {"workspace_id": workspace.pk, "user_id": bob.pk, "api_key_id": None}
    limits.admit(**ask, tokens=900, slot=call)
    choices = [
        inference.start_generation(
            workspace=workspace,
            model=model,
            messages=[],
            purpose="api",
            user_id=bob.pk,
            call_id=call,
            choice=n,
        )
        for n in range(2)
    ]
    ends(Message(generation=choices[0]))
    with pytest.raises(UserError, match="at once"):
        limits.admit(**ask, tokens=1, slot=uuid.uuid4())
    ends(Message(generation=choices[1]))
    headers = limits.admit(**ask, tokens=100, slot=uuid.uuid4())
    assert headers["x-ratelimit-remaining-tokens"] == str(1000 - 10 - 5 - 5 - 100)


def test_what_a_visitor_asks_counts_with_all_that_the_model_reads_for_it_and_only_once_it_is_written(
    workspace: Workspace, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(workspace, tokens_per_minute=100_000, requests_per_minute=10)
    look = widget_services.Look(
        name="Help", origins=("https://shop.example",), model=None, instructions="请用中文回答。" * 20, greeting="",
        theme="auto", accent="", messages_per_hour=9, messages_per_day=9, is_active=True,
    )  # fmt: skip
    widget = widget_services.create_widget(user=alice, workspace=workspace, look=look)
    visitor = Client(raise_request_exception=False)
    token = visitor.post(reverse("widget_sessions", args=[widget.pk])).json()["token"]
    visitor.defaults["HTTP_AUTHORIZATION"] = f"Visitor {token}"

    def used(text: str) -> limits.Current:
        address = reverse("widget_messages", args=[widget.pk])
        visitor.post(address, json.dumps({"text": text}), "application/json")
        return limits.current_use(workspace.pk, [None])[None]

    question, answer = "什么是潮汐？" * 30, "月球的引力。" * 40
    parts = [len(part.encode()) // 4 + 1 for part in (look.instructions, question, answer)]
    first = used(question)
    assert first == limits.Current(1, parts[0] + parts[1] + 512)
    Generation.objects.update(state="complete", text=answer)
    both = used(question)
    assert both == limits.Current(2, first.tokens + parts[0] + 2 * parts[1] + parts[2] + 512)
    Generation.objects.update(state="complete", text=answer)

    def fails(*_rows: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(WidgetMessage.objects, "bulk_create", fails)
    assert used(question) == both


def test_what_did_not_happen_can_be_taken_back(workspace: Workspace, bob: User) -> None:
    limit(workspace, user_id=bob.pk, requests_per_minute=1)
    slot = uuid.uuid4()
    limits.admit(workspace_id=workspace.pk, user_id=bob.pk, api_key_id=None, tokens=1, slot=slot)
    limits.withdraw(slot=slot)
    limits.withdraw(slot=slot)
    say(bob, workspace)
