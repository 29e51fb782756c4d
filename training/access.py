"""Permission-checked reads of datasets and jobs: the only way pages fetch them.

Both are the business of a workspace's owners and admins; for everybody else, its members too, it does not exist.
"""

from __future__ import annotations

import uuid
from typing import TypeVar

from django.contrib.auth.models import AnonymousUser
from django.db.models import Model, OuterRef, Prefetch, QuerySet, Subquery
from django.utils.translation import gettext as _

from training.models import Dataset, DatasetVersion, DataWork, Job, Search, SourceFile
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.core.errors import NotFound

M = TypeVar("M", bound=Model)
Person = User | AnonymousUser


def _administered(user: Person) -> QuerySet[Membership]:
    if not user.is_authenticated:
        return Membership.objects.none()
    return Membership.objects.filter(user_id=user.pk, role__in=(Role.OWNER, Role.ADMIN))


def _mine(user: Person) -> QuerySet[Dataset]:
    return Dataset.objects.filter(workspace__in=_administered(user).values("workspace"))


def require_data_admin(user: Person, workspace: Workspace) -> None:
    """Raises NotFound for whoever is no owner or admin of the workspace."""
    if not _administered(user).filter(workspace=workspace).exists():
        raise NotFound(_("That page"))


def list_datasets(user: User, workspace: Workspace) -> QuerySet[Dataset]:
    """A workspace's datasets, last changed first, each with its files and versions.

    Raises NotFound.
    """
    require_data_admin(user, workspace)
    return (
        Dataset.objects.filter(workspace=workspace)
        .select_related("created_by")
        .prefetch_related(
            Prefetch("files", SourceFile.objects.only("dataset", "size", "state")),
            Prefetch("versions", DatasetVersion.objects.defer("manifest", "recipe")),
        )
        .order_by("-updated_at", "-id")
    )


def last_work(datasets: list[Dataset]) -> dict[uuid.UUID, DataWork]:
    """What was begun last with each of the datasets, by the dataset's id."""
    newest = (
        DataWork.objects.filter(dataset=OuterRef("dataset")).order_by("-created_at", "-id").values("id")[:1]
    )
    found = DataWork.objects.filter(dataset__in=datasets, id=Subquery(newest)).defer("result", "parameters")
    return {work.dataset_id: work for work in found}


def get_dataset(user: Person, dataset_id: uuid.UUID) -> Dataset:
    """With its workspace loaded. Raises NotFound."""
    return _found(_mine(user).select_related("workspace", "created_by"), dataset_id, _("That dataset"))


def get_file(user: Person, file_id: uuid.UUID) -> SourceFile:
    files = SourceFile.objects.select_related("dataset__workspace").filter(dataset__in=_mine(user))
    return _found(files, file_id, _("That file"))


def get_work(user: Person, work_id: uuid.UUID) -> DataWork:
    work = DataWork.objects.select_related("dataset__workspace").filter(dataset__in=_mine(user))
    return _found(work, work_id, _("That work"))


def get_version(user: Person, version_id: uuid.UUID) -> DatasetVersion:
    versions = DatasetVersion.objects.select_related("dataset__workspace").filter(dataset__in=_mine(user))
    return _found(versions, version_id, _("That version"))


def list_jobs(user: Person, workspace: Workspace) -> QuerySet[Job]:
    """A workspace's jobs, the newest first, each with its base, its owner and what came of it.

    Raises NotFound.
    """
    require_data_admin(user, workspace)
    return Job.objects.filter(workspace=workspace).select_related("base", "model", "created_by", "version")


def get_job(user: Person, job_id: uuid.UUID) -> Job:
    """With its workspace and what the list has loaded. Raises NotFound."""
    jobs = Job.objects.filter(workspace__in=_administered(user).values("workspace"))
    related = jobs.select_related(
        "workspace", "base", "model__base", "created_by", "version__dataset", "search"
    )
    return _found(related, job_id, _("That fine-tune"))


def list_searches(user: Person, workspace: Workspace) -> QuerySet[Search]:
    """A workspace's searches, the newest first, each with its trials. Raises NotFound."""
    require_data_admin(user, workspace)
    trials = Prefetch("jobs", Job.objects.defer("evaluation", "chosen", "data").order_by("number"))
    searches = Search.objects.filter(workspace=workspace).select_related("created_by")
    return searches.prefetch_related(trials).order_by("-created_at", "-id")


def get_search(user: Person, search_id: uuid.UUID) -> Search:
    """With its workspace loaded. Raises NotFound."""
    searches = Search.objects.filter(workspace__in=_administered(user).values("workspace"))
    return _found(searches.select_related("workspace", "created_by"), search_id, _("That search"))


def _found(rows: QuerySet[M], key: uuid.UUID, what: str) -> M:
    found = rows.filter(pk=key).first()
    if found is None:
        raise NotFound(what)
    return found
