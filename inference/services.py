"""Every write to a Generation. States change by compare-and-set, so that two writers can never both win.

The web process imports this: no torch here. Tasks are sent on commit; a task that is lost on the way is sent again by
the reaper, because the row says it is queued.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from prometheus_client import Counter
from redis.exceptions import RedisError

from inference import usage
from inference.extras import Extras
from inference.models import Generation, ServedModel
from inference.parameters import SamplingParams
from inference.serving import Workers, not_served, whole_models
from inference.serving import default_model as default_model
from inference.signals import generation_ended
from inference.stream import Append, Event, TokenLog, encode_event, text_of
from inference.task_messages import push, queue_key
from webapp.accounts.models import ApiKey, Workspace
from webapp.core import clock, metrics, sql
from webapp.core.errors import UserError
from webapp.core.request_ids import current_request_id, on_behalf_of

logger = logging.getLogger(__name__)
events = structlog.get_logger(__name__)
_ended = Counter(
    "flywheel_generations_ended", "Generations that ended, by how.", ["state"], registry=metrics.registry
)
State = Generation.State
_TASK = "inference.generate"
# Of all inference workers; nothing of ours is sent to it. That of a whole model is QUEUE.ID.
QUEUE = "generate"

_token_log: TokenLog | None = None


def token_log() -> TokenLog:
    """This process's writer to the token logs."""
    global _token_log
    if _token_log is None:
        _token_log = TokenLog()
    return _token_log


class Prompt(NamedTuple):
    """What is to be answered or continued: `messages`, or `prompt`, a text or token ids as they are."""

    messages: list[dict[str, str]] = []
    prompt: str | list[int] | None = None


def start_generation(
    *,
    workspace: Workspace,
    model: ServedModel,
    messages: list[dict[str, str]] | None = None,
    prompt: str | list[int] | None = None,
    params: SamplingParams | None = None,
    seed: int | None = None,
    purpose: str = "reply",
    user_id: UUID | None = None,
    api_key: ApiKey | None = None,
    call_id: UUID | None = None,
    choice: int = 0,
) -> Generation:
    """Records a generation and sends its task when the surrounding transaction commits.

    One of `messages` and `prompt` is given. The choices of one call share `call_id` and `seed`.
    Raises UserError, both 503 with Retry-After: `busy` where more is queued than this site takes on, `model_not_served`
    where workers are there and none serves this model.
    """
    generation = Generation(
        workspace=workspace,
        model=model,
        messages=messages or [],
        prompt=prompt,
        user_id=user_id,
        api_key=api_key,
        call_id=call_id,
        choice=choice,
        params=_given(params),
        seed=_seed(seed),
        purpose=purpose,
    )
    _record([generation])
    return generation


def start_generations(
    *,
    ids: Sequence[UUID],
    workspace_id: UUID,
    model: ServedModel,
    prompts: Sequence[Prompt],
    params: SamplingParams | None = None,
    seed: int | None = None,
    purpose: str,
    user_id: UUID | None = None,
    api_key_id: UUID | None = None,
    call_id: UUID | None = None,
    first_choice: int = 0,
    workers: Workers | None = None,
) -> list[Generation]:
    """Those of one call, under `ids`: equally many of every prompt, the first prompt's first.

    `workers`: as they were a moment ago, for who has asked already.
    `choice` counts through all of them, from `first_choice` on; otherwise as `start_generation`.
    """
    each, given, seed = len(ids) // len(prompts), _given(params), _seed(seed)
    generations = [
        Generation(
            id=id_,
            workspace_id=workspace_id,
            model=model,
            messages=prompts[at // each].messages,
            prompt=prompts[at // each].prompt,
            user_id=user_id,
            api_key_id=api_key_id,
            call_id=call_id,
            choice=first_choice + at,
            params=given,
            seed=seed,
            purpose=purpose,
        )
        for at, id_ in enumerate(ids)
    ]
    _record(generations, workers)
    return generations


def start_classification(
    *,
    workspace: Workspace,
    model: ServedModel,
    text: str,
    user_id: UUID | None = None,
    api_key: ApiKey | None = None,
    call_id: UUID | None = None,
    choice: int = 0,
) -> Generation:
    """A generation that judges a text and writes none: `extras["scores"]` of the finished row, and the event `result`,
    have a probability for each label, or a regressor's number as "value". A long text is cut as in training.

    Raises UserError `no_classifier`, and as `start_generation`.
    """
    if model.kind != ServedModel.Kind.CLASSIFIER:
        raise UserError("no_classifier", f"{model.name} is no classifier: it was not trained to judge texts.")
    return start_generation(
        workspace=workspace,
        model=model,
        prompt=text,
        purpose="classification",
        user_id=user_id,
        api_key=api_key,
        call_id=call_id,
        choice=choice,
    )


def _given(params: SamplingParams | None) -> Any:
    return msgspec.to_builtins(params or SamplingParams(), str_keys=True)


def _seed(seed: int | None) -> int:
    return secrets.randbelow(2**63) if seed is None else seed


def _record(generations: list[Generation], workers: Workers | None = None) -> None:
    workers = workers or Workers()
    if workers.waiting + len(generations) > settings.INFERENCE_MAX_QUEUED:
        raise UserError(
            "busy",
            "Too many replies are waiting right now. Try again in a moment.",
            status=503,
            retry_after=5,
        )
    for model in {generation.model for generation in generations}:
        if not workers.serve(model.whole_id):
            raise not_served(model)
    now, request_id = clock.now(), current_request_id()
    for generation in generations:
        generation.deadline = now + timedelta(seconds=settings.INFERENCE_DEADLINE_SECONDS)
        generation.sent_at = now
        generation.request_id = request_id
    sql.insert(generations)
    transaction.on_commit(partial(_send, generations))


def _send(generations: list[Generation]) -> None:
    ids = [str(generation.id) for generation in generations]
    # Of a call with a thousand texts, one line, and the first few.
    events.info("generations_queued", generations=ids[:10], count=len(ids), purpose=generations[0].purpose)
    send_tasks([Task(str(generation.id), generation.model.whole_id) for generation in generations])


class Task(NamedTuple):
    """Says that one more generation waits for a whole model, or an adapter to it."""

    generation: str
    model: int


def queue_of(model: int) -> str:
    """The queue of tasks for a whole model."""
    return f"{QUEUE}.{model}"


def queues() -> list[str]:
    """All queues of generations' tasks."""
    return [QUEUE, *map(queue_of, whole_models())]


def send_tasks(tasks: Sequence[Task]) -> None:
    """Tells the workers; if the broker is away the rows stay queued and the reaper sends them later."""
    waiting: dict[str, list[list[str | int]]] = {}
    for task in tasks:
        waiting.setdefault(queue_of(task.model), []).append([task.generation, task.model])
    try:
        for queue, each in waiting.items():
            push(_TASK, each, queue)
    except RedisError as error:
        logger.warning("tasks of generations not sent, the reaper will: %s: %s", tasks, error)


def queue_length(model: int) -> int:
    """Tasks in the broker that wait for a whole model. Raises redis.RedisError."""
    return token_log().connection.llen(queue_key(queue_of(model)))


def task_of(generation_id: UUID | str) -> Task | None:
    """None where there is no such generation any more."""
    rows = Generation.objects.filter(id=generation_id).values_list("model_id", "model__base_id")
    return next((Task(str(generation_id), base or model) for model, base in rows), None)


def send_again(generation_id: UUID) -> None:
    """The task of one that waits."""
    task = task_of(generation_id)
    if task is not None:
        send_tasks([task])


def next_queued(*, models: Collection[int] | None = None) -> UUID | None:
    """Whose turn it is: the oldest of the workspace with the fewest running, and a reply before a title.

    `models`: only of those with one of these, or with an adapter to one.
    """
    among = ""
    if models is not None:
        places = ", ".join(["%s"] * len(models))
        whole = f"SELECT id FROM inference_servedmodel WHERE COALESCE(base_id, id) IN ({places})"  # noqa: S608
        among = f" AND waiting.model_id IN ({whole})"
    rows = sql.fetch(
        "SELECT waiting.id FROM inference_generation waiting LEFT JOIN"  # noqa: S608 - of placeholders
        " (SELECT workspace_id, COUNT(*) AS running FROM inference_generation WHERE state = 'running'"
        " GROUP BY workspace_id) busy ON busy.workspace_id = waiting.workspace_id WHERE waiting.state = 'queued'"
        + among
        + " ORDER BY COALESCE(busy.running, 0), waiting.purpose = 'title', waiting.created_at LIMIT 1",
        *(models or ()),
    )
    return UUID(str(rows[0][0])) if rows else None


def claim_generation(*, generation_id: UUID | str, worker_id: UUID) -> Generation | None:
    """queued → running for this worker, under a new attempt; None where someone else was first."""
    claimed = sql.instances(
        Generation,
        "UPDATE inference_generation SET state = 'running', worker_id = %s, attempt = attempt + 1"
        " WHERE id = %s AND state = 'queued' RETURNING {columns}",
        worker_id,
        UUID(str(generation_id)),
    )
    return claimed[0] if claimed else None


def release_generation(*, generation: Generation) -> bool:
    """running → queued: its worker is stopping and hands it over. The log stays, another continues from it."""
    now = clock.now()
    released = Generation.objects.filter(
        id=generation.id, state=State.RUNNING, attempt=generation.attempt
    ).update(state=State.QUEUED, worker=None, sent_at=now)
    if released:
        send_again(generation.id)
    return bool(released)


def finish_generation(*, generation: Generation, state: str, **fields: Any) -> bool:
    """Ends a generation this attempt runs: running → `state`. False where it is no longer ours to end.

    On True the row is final and `generation` carries its values; the caller then appends the log's last event.
    """
    return _end(generation, expected=State.RUNNING, state=state, **fields)


def cancel_generation(*, generation_id: UUID) -> None:
    """Ends it at once where it waits; where it runs, its worker ends it within a decode step and keeps the text."""
    # The wish is recorded before anything is looked at: whoever claims or takes over from here on reads it.
    unfinished = Generation.objects.filter(id=generation_id, state__in=(State.QUEUED, State.RUNNING))
    if not unfinished.update(cancel_requested=True):
        return
    generation = unfinished.first()
    if generation is None:
        return
    if generation.state == State.QUEUED and end_unclaimed(generation=generation, state=State.CANCELLED):
        return
    transaction.on_commit(lambda: _request_stop(generation_id))


def delete_generations(*, ids: list[UUID]) -> None:
    """Deletes rows and, on commit, their logs; a worker that runs one hears of it and drops it. What it made counts."""
    with transaction.atomic():
        unfinished = Generation.objects.filter(id__in=ids, state__in=(State.QUEUED, State.RUNNING))
        # In one order, so that two who delete never wait for each other's days of usage.
        for generation in unfinished.select_for_update(of=("self",)).order_by("model_id", "id"):
            said = _said_so_far(generation.id)
            generation.prompt_tokens, generation.completion_tokens = said.prompt_tokens, said.tokens
            generation.save(update_fields=["prompt_tokens", "completion_tokens"])
            usage.count(generation)
        Generation.objects.filter(id__in=ids).delete()
        transaction.on_commit(lambda: _discard_logs(ids))


def _discard_logs(ids: list[UUID]) -> None:
    try:
        token_log().discard(ids)
    except RedisError as error:
        logger.warning("logs of %s deleted generations not discarded, they expire: %s", len(ids), error)


def _request_stop(generation_id: UUID) -> None:
    try:
        token_log().request_stop(generation_id)
    except RedisError as error:
        logger.warning(
            "stop of generation %s not published, its worker reads it from the row: %s", generation_id, error
        )


def end_unclaimed(*, generation: Generation, state: str, **fields: Any) -> bool:
    """queued → `state`, keeping what an earlier attempt wrote to the log; appends the log's last event on commit."""
    # A new attempt number, so that a worker thought dead cannot append behind the end.
    return _end_as_logged(generation, expected=State.QUEUED, state=state, new_attempt=True, **fields)


def end_unprepared(*, generation: Generation, state: str, **fields: Any) -> bool:
    """The same of one that this attempt has claimed and logged nothing of: running → `state`."""
    return _end_as_logged(generation, expected=State.RUNNING, state=state, **fields)


def _end_as_logged(generation: Generation, **fields: Any) -> bool:
    said = _said_so_far(generation.id)
    if not _end(
        generation,
        text=text_of(said.events),
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.tokens,
        extras=Extras.logged(said.events).as_row(),
        **fields,
    ):
        return False
    last = said.events[-1].seq if said.events else 0
    transaction.on_commit(lambda: _append_last(generation, last + 1))
    return True


class _SoFar(NamedTuple):
    """What attempts that are over have logged."""

    events: list[Event]
    prompt_tokens: int
    tokens: int


def _said_so_far(generation_id: UUID) -> _SoFar:
    try:
        events = token_log().read(generation_id)
    except RedisError:
        events = []
    admitted = next((event.data for event in events if event.type == "admitted"), {})
    tokens = sum(len(event.data["ids"]) for event in events if event.type == "text")
    return _SoFar(events, int(admitted.get("prompt_tokens", 0)), tokens)


def _append_last(generation: Generation, seq: int) -> None:
    event = encode_event(generation.attempt, *generation.last_event())
    try:
        token_log().append([Append(str(generation.id), generation.attempt, [(seq, event)], finished=True)])
    except RedisError as error:
        logger.warning(
            "end of generation %s not logged, readers take it from the row: %s", generation.id, error
        )


def _end(
    generation: Generation, *, expected: str, state: str, new_attempt: bool = False, **fields: Any
) -> bool:
    with transaction.atomic():
        if new_attempt:
            fields["attempt"] = generation.attempt + 1
        fields |= {"state": state, "worker_id": None, "finished_at": timezone.now()}
        same = {"id": generation.id, "state": expected, "attempt": generation.attempt}
        if not sql.update(Generation, same, fields):
            return False
        for name, value in fields.items():
            setattr(generation, name, value)
        generation_ended.send(sender=Generation, generation=generation)
        # Last: whoever else ends something of the same person's waits for this day's row until we commit.
        usage.count(generation)
    _tell_end(generation)
    return True


def _tell_end(generation: Generation) -> None:
    """To whoever watches the site."""
    _ended.labels(generation.state).inc()
    if generation.state in (State.FAILED, State.INTERRUPTED):
        metrics.errors.labels("generation", generation.error_code).inc()
    assert generation.finished_at is not None
    with on_behalf_of(generation.request_id, generation=str(generation.id)):
        events.info(
            "generation_ended",
            state=str(generation.state),
            attempt=generation.attempt,
            finish_reason=generation.finish_reason,
            error_code=generation.error_code,
            prompt_tokens=generation.prompt_tokens,
            completion_tokens=generation.completion_tokens,
            seconds=round((generation.finished_at - generation.created_at).total_seconds(), 3),
        )
