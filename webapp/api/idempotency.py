"""Idempotency-Key: a POST that is sent again gets the answer of the first one, and nothing is made twice.

`answer_once` goes round every operation of the API, from outside; `claim_first` round its view, behind the log-in and
the checks of the request, so that what was refused there claims nothing. Between them a row says what became of a key:
being worked on, answered, or pointing at the completion that a repeat follows. What a route that is a function does
and its answer are one transaction: a process that is killed leaves both or neither. A coroutine that makes a completion
asks first whether it `repeated` one, and else says which one it made:

    completion = repeated(request) or start_completion(..., bind=partial(bind, request))

Knows nothing of what is made. Routes that make nothing, or know by themselves what they were asked before, are
`repeatable` and go past this.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.translation import gettext as _

from inference.models import Generation
from webapp.accounts.models import User, Workspace
from webapp.api.callers import caller
from webapp.api.models import Completion, IdempotentRequest
from webapp.core import clock
from webapp.core.errors import UserError
from webapp.core.middleware import error_response

KEPT = timedelta(hours=24)
# How long a key stays claimed by a request of which nothing more is heard: its process may have been killed.
LEASE = timedelta(seconds=60)
MAX_KEPT_CHARACTERS = 2**20
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_CLAIM = "_idempotency_claim"
# Endings of which a repeat has no use: it begins again.
_LOST = (Generation.State.CANCELLED, Generation.State.FAILED, Generation.State.INTERRUPTED)
View = TypeVar("View", bound=Callable[..., Any])


@dataclass
class Claim:
    """What a request has of its key's row, until it is answered."""

    row_id: int
    since: datetime  # which claim of this row it is: another is made when this one's lease has run out
    repeats: Completion | None = None  # what the first sending began
    is_bound: bool = False
    is_secret: bool = False
    work: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # its transaction
    in_transaction: bool = False


# --- what routes say and ask ---------------------------------------------------------------------------------
def repeatable(view: View) -> View:
    """A route that may be asked again as it is: it makes nothing, or knows by itself what it was asked before."""
    view.is_repeatable = True  # type: ignore[attr-defined]
    return view


def key_of(request: HttpRequest) -> str | None:
    """The Idempotency-Key this came with. Raises UserError `invalid_idempotency_key`."""
    key: str | None = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise UserError(
            "invalid_idempotency_key",
            _("An Idempotency-Key has 1 to 255 printable ASCII characters."),
            param="Idempotency-Key",
        )
    return key


def key_reused() -> UserError:
    return UserError(
        "idempotency_key_reused",
        _("That Idempotency-Key came with another request before. Take a new one for each."),
        param="Idempotency-Key",
    )


def repeated(request: HttpRequest) -> Completion | None:
    """What an earlier request with this key began, and this one follows instead of beginning it again."""
    claim: Claim | None = getattr(request, _CLAIM, None)
    return claim.repeats if claim else None


def bind(request: HttpRequest, completion: Completion) -> None:
    """From now on repeats follow `completion`. In the transaction that makes it."""
    claim: Claim | None = getattr(request, _CLAIM, None)
    if claim is not None:
        if not _claimed(claim).update(completion=completion):
            raise _in_progress()
        claim.is_bound = True


def keeps_a_secret(request: HttpRequest) -> None:
    """The answer to this must not be kept: a repeat is told that there was one, and no more."""
    claim: Claim | None = getattr(request, _CLAIM, None)
    if claim is not None:
        claim.is_secret = True


# --- round every operation -----------------------------------------------------------------------------------
def answer_once(run: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what an operation answered to a request that claimed its key. For `add_decorator(mode="view")`."""
    if iscoroutinefunction(run):

        @functools.wraps(run)
        async def run_async(request: HttpRequest, **values: Any) -> HttpResponseBase:
            response: HttpResponseBase = await run(request, **values)
            if hasattr(request, _CLAIM):
                response = await sync_to_async(_settle)(request, response)
            return response

        return run_async

    @functools.wraps(run)
    def run_sync(request: HttpRequest, **values: Any) -> HttpResponseBase:
        try:
            response: HttpResponseBase = run(request, **values)
        except BaseException:
            _abandon(request)
            raise
        return _settle(request, response) if hasattr(request, _CLAIM) else response

    return run_sync


def claim_first(view: Callable[..., Any]) -> Callable[..., Any]:
    """Claims the key before the view works, or answers instead of it. For `add_decorator(mode="operation")`."""
    if getattr(view, "is_repeatable", False):
        return view
    if iscoroutinefunction(view):

        @functools.wraps(view)
        async def view_async(request: HttpRequest, **values: Any) -> Any:
            if _is_asked(request) and (answer := await sync_to_async(_begin)(request)) is not None:
                return answer
            return await view(request, **values)

        return view_async

    @functools.wraps(view)
    def view_sync(request: HttpRequest, **values: Any) -> Any:
        if _is_asked(request):
            if (answer := _begin(request)) is not None:
                return answer
            _enter_transaction(request)
        return view(request, **values)

    return view_sync


def _is_asked(request: HttpRequest) -> bool:
    return request.method == "POST" and "Idempotency-Key" in request.headers


def _enter_transaction(request: HttpRequest) -> None:
    """A file of any size has arrived by now, or others would wait for it on SQLite."""
    claim: Claim = getattr(request, _CLAIM)
    claim.work.enter_context(transaction.atomic())
    claim.in_transaction = True


# --- the row -------------------------------------------------------------------------------------------------
def _begin(request: HttpRequest) -> HttpResponse | None:
    """Claims the key for this request; or the answer that it has had already.

    Raises UserError `invalid_idempotency_key`, `idempotency_key_reused`, `idempotency_in_progress` (409 with
    Retry-After), `idempotency_answer_gone`.
    """
    key, who = key_of(request), caller(request)
    assert key is not None
    fingerprint = _fingerprint(request)
    row, is_new = _row(workspace=who.workspace, user=who.user, key=key, fingerprint=fingerprint)
    now = clock.now()
    if not is_new and (row.created_at <= now - KEPT or _is_lost(row, now)):
        _start_over(row, fingerprint, now)
        is_new = True
    if is_new:
        setattr(request, _CLAIM, Claim(row.pk, row.created_at))
        return None
    if row.fingerprint != fingerprint:
        raise key_reused()
    if row.completion is not None:
        setattr(request, _CLAIM, Claim(row.pk, row.created_at, repeats=row.completion, is_bound=True))
        return None
    if row.status is None:
        raise _in_progress()
    return _kept_answer(row)


def _row(*, workspace: Workspace, user: User, key: str, fingerprint: str) -> tuple[IdempotentRequest, bool]:
    return IdempotentRequest.objects.select_related("completion").get_or_create(
        workspace=workspace, user=user, key=key, defaults={"fingerprint": fingerprint}
    )


def _is_lost(row: IdempotentRequest, now: datetime) -> bool:
    """Whether nothing will come of it any more: its process has gone, or its completion ended without an answer."""
    if row.completion is not None:
        return Generation.objects.filter(call_id=row.completion.pk, state__in=_LOST).exists()
    return row.status is None and row.created_at <= now - LEASE


def _start_over(row: IdempotentRequest, fingerprint: str, now: datetime) -> None:
    """By compare-and-set: of several repeats that come at once one begins again."""
    same = IdempotentRequest.objects.filter(pk=row.pk, created_at=row.created_at, status=row.status)
    fresh = {"fingerprint": fingerprint, "status": None, "body": "", "completion": None, "created_at": now}
    if not same.update(**fresh):
        raise _in_progress()
    row.created_at = now


def _in_progress() -> UserError:
    return UserError(
        "idempotency_in_progress",
        _("The first request with this Idempotency-Key is still being worked on. Ask again in a moment."),
        status=409,
        retry_after=1,
        param="Idempotency-Key",
    )


def _kept_answer(row: IdempotentRequest) -> HttpResponse:
    if not row.body and row.status != 204:
        raise UserError(
            "idempotency_answer_gone",
            _(
                "This was done when it was first asked for, and the answer was not kept: it held a secret, or was too "
                "long. Look at what is there now; to do it once more, send a new Idempotency-Key."
            ),
            status=409,
            param="Idempotency-Key",
        )
    response = HttpResponse(row.body, status=row.status, content_type="application/json; charset=utf-8")
    response.headers["Idempotent-Replayed"] = "true"
    return response


def _settle(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Keeps the answer with the row, in the transaction of what it is the answer to. Answers what is to be sent."""
    claim: Claim = getattr(request, _CLAIM)
    with claim.work:
        if claim.in_transaction and response.status_code < 400:
            if _keep(claim, response):
                return response
            # Its lease had run out and another request does the same: what this one did is undone.
            transaction.set_rollback(True)
            return error_response(request, _in_progress())
        if claim.in_transaction:
            transaction.set_rollback(True)  # what was refused has done nothing
    _keep(claim, response)
    return response


def _abandon(request: HttpRequest) -> None:
    """After an error that nobody made an answer of."""
    claim: Claim | None = getattr(request, _CLAIM, None)
    if claim is not None:
        with claim.work:
            if claim.in_transaction:
                transaction.set_rollback(True)
        _claimed(claim).delete()


def _keep(claim: Claim, response: HttpResponseBase) -> bool:
    """False where the claim has become another's meanwhile."""
    row = _claimed(claim)
    status = response.status_code
    if claim.repeats is not None:
        response.headers["Idempotent-Replayed"] = "true"
    # Whoever was turned away for now may try again, and a stream of which nothing is left cannot be repeated.
    if status >= 500 or status == 429 or (response.streaming and not claim.is_bound):
        row.delete()
        return True
    body = ""
    if isinstance(response, HttpResponse) and not claim.is_bound and not claim.is_secret:
        body = response.content.decode()
    return bool(row.update(status=status, body=body if len(body) <= MAX_KEPT_CHARACTERS else ""))


def _claimed(claim: Claim) -> QuerySet[IdempotentRequest]:
    return IdempotentRequest.objects.filter(pk=claim.row_id, created_at=claim.since)


def _fingerprint(request: HttpRequest) -> str:
    """What was asked for. Of an upload its fields and files: clients send them again with another boundary."""
    digest = hashlib.sha256()
    for part in (request.method or "", request.get_full_path()):
        _add(digest, part.encode())
    if request.content_type != "multipart/form-data":
        _add(digest, request.body)
        return digest.hexdigest()
    for name, values in sorted(request.POST.lists()):
        for value in values:
            _add(digest, name.encode())
            _add(digest, str(value).encode())
    for name, files in sorted(request.FILES.lists()):
        for file in files:
            _add(digest, name.encode())
            _add(digest, (file.name or "").encode())
            content = hashlib.sha256()
            for chunk in file.chunks():
                content.update(chunk)
            file.seek(0)
            _add(digest, content.digest())
    return digest.hexdigest()


def _add(digest: Any, part: bytes) -> None:
    # Each with its length, or two parts could be divided in other ways.
    digest.update(len(part).to_bytes(8, "big"))
    digest.update(part)


def sweep() -> None:
    """Keys of yesterday."""
    if (now := clock.deletion_time()) is not None:
        IdempotentRequest.objects.filter(created_at__lt=now - KEPT).delete()
