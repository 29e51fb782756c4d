"""Which models a worker serves, and whether anybody serves one. No torch: the web process asks it, too."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.db import DatabaseError, connection
from django.utils.translation import gettext as _

from inference.models import ServedModel, Worker
from webapp.core import clock, sql
from webapp.core.errors import UserError

# A worker that was here so short a while ago is being restarted.
ABSENT_AFTER = timedelta(seconds=60)
_RETRY_AFTER = 30  # seconds
NO_MODEL = "No model is installed yet. Ask the person who runs this site to add one."


class Serving(NamedTuple):
    """Of one worker, from its start to its end."""

    resident: ServedModel  # is loaded at its start, and stays
    models: list[int] | None  # whole models, with the adapters to them; None: any

    def includes(self, whole: int) -> bool:
        return self.models is None or whole in self.models


def chosen() -> Serving:
    """What INFERENCE_MODELS says. Raises UserError `no_model`, `unknown_model`, `model_unusable`."""
    names = settings.INFERENCE_MODELS
    if not names:
        resident = default_model()
        return Serving(resident, None if settings.INFERENCE_MAX_MODELS > 1 else [resident.pk])
    found = {model.name: model for model in ServedModel.objects.filter(name__in=names, removed_at=None)}
    for name in names:
        if name not in found:
            raise UserError(
                "unknown_model",
                f"INFERENCE_MODELS names {name!r}, but no model is called so; see: manage.py models list",
            )
        if base := found[name].base:
            raise UserError(
                "model_unusable",
                f"INFERENCE_MODELS names {name!r}, which is an adapter: name its base, {base.name}.",
            )
    if len(found) > 1 and settings.INFERENCE_MAX_MODELS == 1:
        raise UserError(
            "model_unusable",
            f"INFERENCE_MODELS names {len(found)} models, but INFERENCE_MAX_MODELS is 1: raise that, or name one.",
        )
    return Serving(found[names[0]], [found[name].pk for name in dict.fromkeys(names)])


def wrong_names() -> str:
    """What is wrong with INFERENCE_MODELS, as a sentence; a database that is down is no reason to refuse."""
    try:
        if settings.INFERENCE_MODELS:
            chosen()
    except UserError as error:
        return error.message
    except DatabaseError:
        pass
    finally:
        connection.close()
    return ""


def default_model() -> ServedModel:
    """The model conversations use. Raises UserError `no_model` where none is installed."""
    found = sql.instances(ServedModel, "SELECT {columns} FROM inference_servedmodel WHERE is_default")
    if not found:
        raise UserError("no_model", NO_MODEL, status=503)
    return found[0]  # a constraint sees to it that there is only one


def has_its_first_model(worker: Worker) -> bool:
    """Whether one that is broken lacked nothing but a model, which is there by now: it looks every few seconds."""
    return worker.error == NO_MODEL and ServedModel.objects.filter(is_default=True).exists()


def whole_models() -> list[int]:
    """All that a worker that serves any may be asked for."""
    present = ServedModel.objects.filter(base=None, removed_at=None)
    return list(present.order_by("pk").values_list("pk", flat=True))


def without_ready_worker(models: Collection[int]) -> list[int]:
    """Those of these whole models that nobody answers with now."""
    ready = Worker.objects.alive().filter(state=Worker.State.READY)
    served = list(ready.values_list("serves", flat=True))
    return [model for model in models if not any(ids is None or model in ids for ids in served)]


class Workers:
    """Those of the last minute, with what they serve, and how much waits for them."""

    def __init__(self) -> None:
        now = clock.now()
        rows = sql.fetch(
            "SELECT queued.waiting, present.serves, present.are_old, present.are_here FROM"
            " (SELECT COUNT(*) AS waiting FROM inference_generation WHERE state = 'queued') queued"
            " LEFT JOIN (SELECT serves, MIN(started_at) < %s AS are_old,"
            " COALESCE(MAX(CASE WHEN state <> 'stopping' THEN lease_expires_at END) > %s, FALSE) AS are_here"
            " FROM inference_worker WHERE lease_expires_at > %s GROUP BY serves) present ON TRUE",
            now - ABSENT_AFTER,
            now,
            now - ABSENT_AFTER,
        )
        self.waiting: int = rows[0][0]  # generations
        present = [row for row in rows if row[3] is not None]
        self._serve = [_ids(serves) for _, serves, _, _ in present]
        # Some of them have been here for longer than any other takes to come.
        self.have_settled = any(are_old for _, _, are_old, _ in present)
        # One is here now, and stays.
        self.are_here = any(are_here for _, _, _, are_here in present)

    def serve(self, whole: int) -> bool:
        """Whether one of them does; also where there are none at all, since they serve what they will."""
        return not self._serve or any(ids is None or whole in ids for ids in self._serve)


def _ids(serves: Any) -> Collection[int] | None:
    # As the driver gives it: SQLite and PostgreSQL's jsonb, loaded by nobody here, are text.
    found = msgspec.json.decode(serves) if isinstance(serves, str) else serves
    return None if found is None else set(found)


def not_served(model: ServedModel) -> UserError:
    message = _("No worker of this site serves %(model)s now. Choose another model, or try again later.")
    return UserError(
        "model_not_served", message % {"model": model.label}, status=503, retry_after=_RETRY_AFTER
    )
