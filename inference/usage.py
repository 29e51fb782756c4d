"""Tokens that were used, by the day: counted in the transaction that ends a generation, so once whatever dies.

A generation that used none, because it was refused or never began, counts nothing. A title is nobody's request, and its
tokens are no person's: they are the workspace's. Knows no page; who may read of whom is the business of layers above.
"""

from __future__ import annotations

from datetime import date
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, Sum
from django.utils import timezone

from inference.models import NOBODY, Generation, UsageDay
from webapp.accounts import limits
from webapp.core import sql

# Of their calls more may come when all so far have ended: who sends them says when the last one has.
IN_WAVES = ("embedding", "classification")
_UNFINISHED = (Generation.State.QUEUED, Generation.State.RUNNING)
_COLUMNS = (
    "workspace_id, day, user_id, api_key_id, model_name, source, requests, prompt_tokens, completion_tokens"
)
_OR_ADD = (
    " ON CONFLICT (workspace_id, day, user_id, api_key_id, model_name, source) DO UPDATE SET"
    " requests = inference_usageday.requests + excluded.requests,"
    " prompt_tokens = inference_usageday.prompt_tokens + excluded.prompt_tokens,"
    " completion_tokens = inference_usageday.completion_tokens + excluded.completion_tokens"
)
# From the row as this transaction has it: whoever is erased meanwhile is gone from it, or will find what we added.
_COUNT = (
    f"INSERT INTO inference_usageday ({_COLUMNS})"  # noqa: S608 - all of it is ours
    " SELECT g.workspace_id, %s, COALESCE(CASE WHEN g.purpose = 'title' THEN NULL ELSE g.user_id END, %s),"
    " COALESCE(g.api_key_id, %s), m.name,"
    " CASE g.purpose WHEN 'reply' THEN 'chat' WHEN 'title' THEN 'chat' WHEN 'widget' THEN 'widget' ELSE 'api' END,"
    " CASE WHEN g.purpose = 'title' OR g.choice > 0 THEN 0 ELSE 1 END, g.prompt_tokens * %s, g.completion_tokens"
    " FROM inference_generation g JOIN inference_servedmodel m ON m.id = g.model_id"
    " WHERE g.id = %s AND g.prompt_tokens + g.completion_tokens > 0" + _OR_ADD
)
_ADD = f"INSERT INTO inference_usageday ({_COLUMNS}) VALUES ({', '.join(['%s'] * 9)})" + _OR_ADD  # noqa: S608


def count(generation: Generation) -> None:
    """Adds what a generation's row says it used to its day, and tells the limits on commit.

    Call it in the transaction that ends the generation, once its row has its last values.
    """
    day = (generation.finished_at or timezone.now()).date()
    own_prompt = not _shares_prompt(generation)
    sql.execute(_COUNT, day, NOBODY, NOBODY, int(own_prompt), generation.id)
    whose = (generation.workspace_id, generation.user_id, generation.api_key_id)
    if generation.purpose != "title" and limits.applies(*whose):
        tokens = generation.completion_tokens + own_prompt * generation.prompt_tokens
        # Robust: what goes wrong with limits must not look as if the generation had not ended.
        transaction.on_commit(partial(_settle, generation, tokens, day), robust=True)


def _shares_prompt(generation: Generation) -> bool:
    """Whether the choice before it in its call has the same prompt, which is counted with the first that has it."""
    if generation.call_id is None or not generation.choice or generation.purpose != "api":
        return False
    before = Generation.objects.filter(call_id=generation.call_id, choice=generation.choice - 1)
    return (generation.messages, generation.prompt) in before.values_list("messages", "prompt")


def _settle(generation: Generation, tokens: int, day: date) -> None:
    call = generation.call_id
    is_last = call is None or not (generation.purpose in IN_WAVES or _others_are_open(call))
    limits.settle(slot=call or generation.id, tokens=tokens, is_last=is_last, day=day)


def _others_are_open(call: UUID) -> bool:
    return Generation.objects.filter(call_id=call, state__in=_UNFINISHED).exists()


def add(day: UsageDay) -> None:
    """Adds a row's numbers to the row of the same day, person, key, model and source, which may not be there yet."""
    sql.execute(
        _ADD,
        day.workspace_id,
        day.day,
        day.user_id,
        day.api_key_id,
        day.model_name,
        day.source,
        day.requests,
        day.prompt_tokens,
        day.completion_tokens,
    )


def used_since(first: date, workspace_id: UUID, user_id: UUID | None, api_key_id: UUID | None) -> int:
    """Tokens of a workspace from that day on: all of them, or one person's or key's."""
    days = UsageDay.objects.filter(workspace_id=workspace_id, day__gte=first)
    if user_id is not None:
        days = days.filter(user_id=user_id)
    if api_key_id is not None:
        days = days.filter(api_key_id=api_key_id)
    return days.aggregate(tokens=Sum(F("prompt_tokens") + F("completion_tokens"), default=0))["tokens"]


def still_open(slots: list[UUID]) -> set[UUID]:
    """Of these generations and calls those in which something is still to be said."""
    named = Generation.objects.filter(Q(id__in=slots) | Q(call_id__in=slots), state__in=_UNFINISHED)
    return {call or id_ for id_, call in named.values_list("id", "call_id")}


limits.keep_books(limits.Books(used_since, still_open))


def delete_days(*, ids: list[int]) -> None:
    """What was used on them is not known any more, and counts to no limit."""
    UsageDay.objects.filter(pk__in=ids).delete()
