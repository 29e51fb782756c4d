"""Permission-checked reads of models: the only way a workspace gets at one. Whose it is not gets NotFound.

Everybody in a workspace may use its models; who belongs there is `webapp.accounts.access`'s business.
"""

from __future__ import annotations

from django.db.models import F, Q, QuerySet
from django.utils.translation import gettext as _

from inference.models import ServedModel
from webapp.accounts.models import Workspace
from webapp.core.errors import NotFound


def models_for(workspace: Workspace) -> QuerySet[ServedModel]:
    """What can be talked to: everybody's models first, the default of all; then the workspace's own, newest first.
    Each with its base."""
    return _all_for(workspace).exclude(kind=ServedModel.Kind.CLASSIFIER)


def classifiers_for(workspace: Workspace) -> QuerySet[ServedModel]:
    """What judges texts, in the same order: see `services.start_classification`."""
    return _all_for(workspace).filter(kind=ServedModel.Kind.CLASSIFIER)


def _all_for(workspace: Workspace) -> QuerySet[ServedModel]:
    return (
        ServedModel.objects.filter(Q(workspace=None) | Q(workspace=workspace), removed_at=None)
        .select_related("base")
        .order_by(F("workspace").asc(nulls_first=True), "-is_default", "-created_at", "-id")
    )


def get_model(workspace: Workspace, model_id: str) -> ServedModel:
    """One of `models_for`. Raises NotFound for all others, and for what is no id."""
    found = None
    if model_id.isascii() and model_id.isdigit() and len(model_id) < 19:
        found = models_for(workspace).filter(pk=int(model_id)).first()
    if found is None:
        raise NotFound(_("That model"))
    return found
