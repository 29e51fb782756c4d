"""/v1/models: what a workspace may ask. Base models first, the default of all, then its own, newest first."""

from __future__ import annotations

from typing import Any, Literal

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from ninja import Router, Schema

from inference.access import classifiers_for, models_for
from inference.models import ServedModel
from webapp.accounts.models import Workspace
from webapp.api.access import model_named
from webapp.api.auth import NeedsAsync
from webapp.api.callers import caller

router = Router(auth=NeedsAsync("chat"))


class Model(Schema):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    context_length: int
    kind: str  # what it does: "chat" answers messages, "text" goes on with a text, a "classifier" judges one
    base: str | None = None  # of an adapter: the model it changes


class Models(Schema):
    object: Literal["list"] = "list"
    data: list[Model]


@router.get("", response=Models, summary="List models")
async def list_models(request: HttpRequest) -> Any:
    """Models that chat, completions and embeddings take, the site's default first; then those that judge texts, which
    moderations take."""
    return await sync_to_async(_listed)(caller(request).workspace)


@router.get("/{path:model}", response=Model, summary="Retrieve a model")
async def retrieve_model(request: HttpRequest, model: str) -> Any:
    found = await sync_to_async(model_named)(caller(request).workspace, model)
    return as_model(found)


def _listed(workspace: Workspace) -> Models:
    found = [*models_for(workspace), *classifiers_for(workspace)]
    return Models(data=[as_model(model) for model in found if model.is_served])


def as_model(model: ServedModel) -> Model:
    return Model(
        id=model.name,
        created=int(model.created_at.timestamp()),
        owned_by="flywheel" if model.workspace_id is None else f"workspace-{model.workspace_id}",
        context_length=model.context_length,
        kind=model.kind,
        base=model.base.name if model.base else None,
    )
