"""Permission-checked reads of models and of what programs asked for: the only way routes get at them.

What a program asked for is its person's, in the workspace of its key. Everybody else gets NotFound.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from inference.models import Generation, ServedModel
from webapp.accounts.models import ApiKey, Membership, Workspace
from webapp.api.callers import Caller
from webapp.api.errors import ModelNotFound
from webapp.api.models import Completion
from webapp.core import sql
from webapp.core.errors import NotFound, UserError

# What ids look like outside, by kind: "chatcmpl-" and the row's id in 32 hexadecimal digits.
PREFIXES = {
    Completion.Kind.CHAT: "chatcmpl-",
    Completion.Kind.TEXT: "cmpl-",
    Completion.Kind.RESPONSE: "resp_",
}


def model_named(workspace: Workspace, name: str) -> ServedModel:
    """Raises ModelNotFound for what does not exist, is another workspace's, or is not answered with here."""
    found = sql.instances(
        ServedModel,
        "SELECT {columns} FROM inference_servedmodel WHERE name = %s AND removed_at IS NULL"
        " AND (workspace_id IS NULL OR workspace_id = %s)",
        name.replace("\x00", "\ufffd"),
        workspace.pk,
    )
    if not found or not found[0].is_served:
        raise ModelNotFound(name)
    return found[0]


def writing_model(workspace: Workspace, name: str) -> ServedModel:
    """One that has to do with texts itself. Raises ModelNotFound, and UserError `wrong_kind_of_model` for one that only
    judges them."""
    model = model_named(workspace, name)
    if model.kind == ServedModel.Kind.CLASSIFIER:
        message = _("“%(name)s” judges texts and writes none; ask it with /v1/moderations.")
        raise UserError("wrong_kind_of_model", message % {"name": name}, param="model")
    return model


def public_id(completion: Completion) -> str:
    return PREFIXES[Completion.Kind(completion.kind)] + completion.id.hex


def get_completion(caller: Caller, public: str, kind: Completion.Kind) -> Completion:
    """A stored one, by the id it has outside. Raises NotFound."""
    found = None
    prefix, hexadecimal = PREFIXES[kind], public.removeprefix(PREFIXES[kind])
    if public.startswith(prefix) and len(hexadecimal) == 32 and hexadecimal.isascii():
        try:
            found = list_completions(caller, kind).filter(pk=uuid.UUID(hexadecimal)).first()
        except ValueError:
            pass
    if found is None:
        raise NotFound(_("That completion"))
    return found


def list_completions(caller: Caller, kind: Completion.Kind) -> QuerySet[Completion]:
    """Those that were stored."""
    return Completion.objects.filter(workspace=caller.workspace, user=caller.user, kind=kind, store=True)


def generations_of(completions: Collection[Completion]) -> dict[uuid.UUID, list[Generation]]:
    """The choices of each, in their order, with their models."""
    by_call: dict[uuid.UUID, list[Generation]] = {completion.pk: [] for completion in completions}
    rows = Generation.objects.filter(call_id__in=list(by_call)).select_related("model")
    for row in rows.order_by("choice"):
        assert row.call_id is not None
        by_call[row.call_id].append(row)
    return by_call


def still_let_in(callers: Collection[Caller]) -> set[Caller]:
    """Of those who were let in, whoever still would be: their keys hold, and their people are members."""
    now = timezone.now()
    keys = dict[uuid.UUID, datetime | None](
        ApiKey.objects.filter(pk__in={c.key.pk for c in callers if c.key}, revoked_at=None).values_list(
            "pk", "expires_at"
        )
    )
    members = set(
        Membership.objects.filter(
            user__in={c.user.pk for c in callers},
            workspace__in={c.workspace.pk for c in callers},
            user__is_active=True,
        ).values_list("user_id", "workspace_id")
    )

    def holds(caller: Caller) -> bool:
        if caller.key is None:
            return True
        expires_at = keys.get(caller.key.pk)
        return caller.key.pk in keys and (expires_at is None or expires_at > now)

    return {c for c in callers if (c.user.pk, c.workspace.pk) in members and holds(c)}
