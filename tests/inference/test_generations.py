"""A generation's life in the database: who may change it, what is sent when, and what the reaper puts right."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from inference import services, worker_services
from inference.models import Generation, ServedModel, Worker
from inference.parameters import SamplingParams
from inference.serving import Workers
from inference.signals import generation_ended
from inference.stream import Append, encode_event
from tests.services import Valkey
from webapp.accounts.models import Workspace
from webapp.core.errors import UserError
from webapp.core.request_ids import on_behalf_of

pytestmark = pytest.mark.django_db(transaction=True)
State = Generation.State


@pytest.fixture
def queued(workspace: Workspace, model: ServedModel) -> Generation:
    return services.start_generation(
        workspace=workspace, model=model, messages=[{"role": "user", "content": "Hello"}], seed=7
    )


@pytest.mark.one_database
def test_what_waits_and_what_runs_is_found_without_reading_what_has_ended(queued: Generation) -> None:
    """However many replies there have been, a site answers as fast: SQLite says how it looks for them."""
    with CaptureQueriesContext(connection) as asked:
        assert services.next_queued(models=[queued.model_id]) == queued.id
        assert Workers().waiting == 1
        worker_services.reap()
    looks = [query["sql"] for query in asked if "inference_generation" in query["sql"]]
    assert len(looks) > 3
    with connection.cursor() as cursor:
        for look in looks:
            cursor.execute(f"EXPLAIN QUERY PLAN {look}")
            plan = [step for *_, step in cursor.fetchall()]
            reads_all = ("SCAN inference_generation", "SCAN waiting")
            assert not [step for step in plan if step.startswith(reads_all)], (look, plan)


def sent(broker: Valkey) -> list[str]:
    """The generations whose tasks wait in the broker for the default model, oldest first."""
    with broker.client() as client:
        tasks = [json.loads(task) for task in client.lrange(queue(), 0, -1)]
    return [json.loads(base64.b64decode(task["body"]))[0][0] for task in reversed(tasks)]


def queue() -> str:
    return f"celery:generate.{services.default_model().pk}"


def worker(*, lease: float = 60) -> Worker:
    return Worker.objects.create(
        hostname="here", pid=1, lease_expires_at=timezone.now() + timedelta(seconds=lease)
    )


def claimed(generation: Generation, by: Worker) -> Generation:
    mine = services.claim_generation(generation_id=generation.id, worker_id=by.id)
    assert mine is not None
    return mine


def log_text(generation: Generation, *texts: str) -> None:
    entries = [
        (seq, encode_event(generation.attempt, "text", {"text": text, "ids": [seq]}))
        for seq, text in enumerate(texts, 1)
    ]
    services.token_log().append([Append(str(generation.id), generation.attempt, entries)])


def test_whoever_ends_it_the_log_names_the_request_that_began_it(
    workspace: Workspace, model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended before any worker had it: a person stopped it, or the reaper gave it up."""
    caplog.set_level("INFO")
    with on_behalf_of("order-7"):
        stopped, late = (
            services.start_generation(workspace=workspace, model=model, messages=[]) for _ in range(2)
        )
    services.cancel_generation(generation_id=stopped.id)
    Generation.objects.filter(id=late.id).update(deadline=timezone.now() - timedelta(seconds=1))
    worker_services.reap()
    said = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    ends = {line["generation"]: line for line in said if line["event"] == "generation_ended"}
    assert {line["request_id"] for line in ends.values()} == {"order-7"}
    assert ends[str(stopped.id)]["state"] == "cancelled"
    assert ends[str(late.id)]["error_code"] == "deadline_exceeded"


def test_its_task_is_sent_when_the_transaction_commits_and_not_before(
    workspace: Workspace, model: ServedModel, broker: Valkey
) -> None:
    with transaction.atomic():
        generation = services.start_generation(workspace=workspace, model=model, messages=[])
        assert sent(broker) == []
    assert sent(broker) == [str(generation.id)]


def test_nothing_is_sent_for_a_transaction_that_failed(
    workspace: Workspace, model: ServedModel, broker: Valkey
) -> None:
    with transaction.atomic():
        services.start_generation(workspace=workspace, model=model, messages=[])
        transaction.set_rollback(True)
    assert sent(broker) == []
    assert not Generation.objects.exists()


def test_it_is_recorded_although_the_broker_is_away_and_sent_when_it_is_back(
    workspace: Workspace, model: ServedModel, broker: Valkey
) -> None:
    broker.kill()
    generation = services.start_generation(workspace=workspace, model=model, messages=[])
    broker.start()
    Generation.objects.update(sent_at=timezone.now() - timedelta(seconds=10))
    worker_services.reap()
    assert sent(broker) == [str(generation.id)]


def test_a_site_with_too_much_waiting_says_so_and_when_to_come_back(
    workspace: Workspace, model: ServedModel, queued: Generation, settings: Any
) -> None:
    settings.INFERENCE_MAX_QUEUED = 1
    with pytest.raises(UserError) as refused:
        services.start_generation(workspace=workspace, model=model, messages=[])
    assert (refused.value.code, refused.value.status, refused.value.retry_after) == ("busy", 503, 5)
    assert Generation.objects.count() == 1


def test_only_one_worker_claims_it(queued: Generation) -> None:
    first, second = worker(), worker()
    assert claimed(queued, first).attempt == 1
    assert services.claim_generation(generation_id=queued.id, worker_id=second.id) is None


def test_an_attempt_that_was_overtaken_cannot_end_it(queued: Generation) -> None:
    old = claimed(queued, worker(lease=-1))
    worker_services.reap()
    new = claimed(queued, worker())
    assert not services.finish_generation(generation=old, state=State.COMPLETE, text="old words")
    assert services.finish_generation(generation=new, state=State.COMPLETE, text="new words")
    queued.refresh_from_db()
    assert (queued.text, queued.attempt, queued.crashes) == ("new words", 2, 1)


def test_its_end_is_announced_inside_the_transaction_that_ends_it(queued: Generation) -> None:
    heard = []

    def receiver(generation: Generation, **_: Any) -> None:
        heard.append((generation.state, transaction.get_connection().in_atomic_block))
        raise RuntimeError("a receiver that fails takes the end back with it")

    generation_ended.connect(receiver)
    try:
        mine = claimed(queued, worker())
        with pytest.raises(RuntimeError):
            services.finish_generation(generation=mine, state=State.COMPLETE)
    finally:
        generation_ended.disconnect(receiver)
    queued.refresh_from_db()
    assert heard == [(State.COMPLETE, True)]
    assert queued.state == State.RUNNING


def test_stopping_one_that_waits_ends_it_and_its_log(queued: Generation) -> None:
    services.cancel_generation(generation_id=queued.id)
    queued.refresh_from_db()
    assert queued.state == State.CANCELLED
    assert services.claim_generation(generation_id=queued.id, worker_id=worker().id) is None
    (event,) = services.token_log().read(queued.id)
    assert (event.seq, event.type, event.data["state"]) == (1, "done", "cancelled")


def test_stopping_one_that_runs_asks_its_worker_in_the_row_and_over_the_broker(
    queued: Generation, broker: Valkey
) -> None:
    claimed(queued, worker())
    with broker.client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("fw:control")
        pubsub.get_message(timeout=5)
        services.cancel_generation(generation_id=queued.id)
        message = pubsub.get_message(timeout=5)
    assert message is not None
    assert message["data"] == str(queued.id).encode()
    queued.refresh_from_db()
    assert (queued.state, queued.cancel_requested) == (State.RUNNING, True)


def test_the_reaper_leaves_a_reply_alone_whose_worker_lives(queued: Generation) -> None:
    claimed(queued, worker())
    worker_services.reap()
    queued.refresh_from_db()
    assert queued.state == State.RUNNING


def test_the_reaper_hands_a_dead_workers_reply_to_another(queued: Generation, broker: Valkey) -> None:
    claimed(queued, worker(lease=-1))
    with broker.client() as client:
        client.delete(queue())
    worker_services.reap()
    queued.refresh_from_db()
    assert (queued.state, queued.crashes, sent(broker)) == (State.QUEUED, 1, [str(queued.id)])


def test_a_reply_someone_stopped_is_not_started_again_when_its_worker_died(queued: Generation) -> None:
    mine = claimed(queued, worker(lease=-1))
    log_text(mine, "so ", "far")
    Generation.objects.update(cancel_requested=True)
    worker_services.reap()
    queued.refresh_from_db()
    assert (queued.state, queued.text, queued.completion_tokens) == (State.CANCELLED, "so far", 2)


def test_the_third_dead_worker_interrupts_a_reply_and_locks_the_dead_out_of_its_log(
    queued: Generation,
) -> None:
    Generation.objects.update(crashes=2)
    mine = claimed(queued, worker(lease=-1))
    log_text(mine, "so far")
    worker_services.reap()
    queued.refresh_from_db()
    assert (queued.state, queued.text, queued.error_code) == (State.INTERRUPTED, "so far", "interrupted")
    log_text(mine, "so far", "too late", "and later")
    events = services.token_log().read(queued.id)
    assert [event.type for event in events] == ["text", "done"]


def test_a_reply_nobody_took_in_time_fails_with_a_sentence(queued: Generation) -> None:
    Generation.objects.update(deadline=timezone.now())
    worker_services.reap()
    queued.refresh_from_db()
    assert (queued.state, queued.error_code) == (State.FAILED, "deadline_exceeded")
    assert queued.error_message.endswith(".")


def test_a_task_that_waits_in_a_long_queue_is_not_sent_again_and_again(
    queued: Generation, broker: Valkey
) -> None:
    Generation.objects.update(sent_at=timezone.now() - timedelta(seconds=30))
    worker_services.reap()
    assert sent(broker) == [str(queued.id)]


def test_a_worker_that_was_thought_dead_keeps_what_nobody_took_over(queued: Generation) -> None:
    late, gone = worker(lease=-1), worker()
    running = claimed(queued, late)
    gone.delete()
    assert worker_services.renew_lease(worker=late)
    worker_services.reap()
    running.refresh_from_db()
    assert (running.state, running.attempt, running.crashes) == ("running", 1, 0)
    assert not worker_services.renew_lease(worker=Worker(hostname="here", pid=2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("max_tokens", 0),
        ("stop", ("",)),
        ("stop", ("a",) * 17),
    ],
)
def test_a_sampling_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        SamplingParams(**{name: value}).check()
