"""Permission-checked reads of datasets and jobs: the only way pages and programs fetch them.

Both are the business of a workspace's owners and admins; for everybody else, its members too, it does not exist. A
program asks with the key of one workspace, and what its person has in others does not exist for it, either.
"""

from __future__ import annotations

import uuid
from typing import TypeVar

from django.contrib.auth.models import AnonymousUser
from django.db.models import Model, OuterRef, Prefetch, QuerySet, Subquery
from django.utils.translation import gettext as _

from training.models import Dataset, DatasetVersion, DataWork, Job, ResultFile, Search, SourceFile
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.core.errors import NotFound

M = TypeVar("M", bound=Model)
Person = User | AnonymousUser


def _administered(user: Person, within: Workspace | None = None) -> QuerySet[Membership]:
    """`within`: in this workspace alone."""
    if not user.is_authenticated:
        return Membership.objects.none()
    administered = Membership.objects.filter(user_id=user.pk, role__in=(Role.OWNER, Role.ADMIN))
    return administered if within is None else administered.filter(workspace=within)


def _mine(user: Person, within: Workspace | None = None) -> QuerySet[Dataset]:
    return Dataset.objects.filter(workspace__in=_administered(user, within).values("workspace"))


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


def get_dataset(user: Person, dataset_id: uuid.UUID | None, *, within: Workspace | None = None) -> Dataset:
    """With its workspace loaded. Raises NotFound."""
    datasets = _mine(user, within).select_related("workspace", "created_by")
    return _found(datasets, dataset_id, _("That dataset"))


def get_file(user: Person, file_id: uuid.UUID | None, *, within: Workspace | None = None) -> SourceFile:
    files = SourceFile.objects.select_related("dataset__workspace").filter(dataset__in=_mine(user, within))
    return _found(files, file_id, _("That file"))


def list_files(user: User, workspace: Workspace) -> QuerySet[SourceFile]:
    """All that have arrived whole, each with its dataset. Raises NotFound."""
    require_data_admin(user, workspace)
    arrived = SourceFile.objects.exclude(state=SourceFile.State.UPLOADING)
    return arrived.filter(dataset__workspace=workspace).select_related("dataset")


def list_results(user: User, workspace: Workspace) -> QuerySet[ResultFile]:
    """Of all jobs. Raises NotFound."""
    require_data_admin(user, workspace)
    return ResultFile.objects.filter(job__workspace=workspace)


def get_result(user: Person, result_id: uuid.UUID | None, *, within: Workspace) -> ResultFile:
    workspaces = _administered(user, within).values("workspace")
    return _found(ResultFile.objects.filter(job__workspace__in=workspaces), result_id, _("That file"))


def get_work(user: Person, work_id: uuid.UUID) -> DataWork:
    work = DataWork.objects.select_related("dataset__workspace").filter(dataset__in=_mine(user))
    return _found(work, work_id, _("That work"))


def get_version(
    user: Person, version_id: uuid.UUID | None, *, within: Workspace | None = None
) -> DatasetVersion:
    versions = DatasetVersion.objects.select_related("dataset__workspace", "work").filter(
        dataset__in=_mine(user, within)
    )
    return _found(versions, version_id, _("That version"))


def list_jobs(user: Person, workspace: Workspace) -> QuerySet[Job]:
    """A workspace's jobs, the newest first, each with its base, its owner and what came of it.

    Raises NotFound.
    """
    require_data_admin(user, workspace)
    return Job.objects.filter(workspace=workspace).select_related("base", "model", "created_by")


def get_job(user: Person, job_id: uuid.UUID | None, *, within: Workspace | None = None) -> Job:
    """With its workspace and what the list has loaded. Raises NotFound."""
    jobs = Job.objects.filter(workspace__in=_administered(user, within).values("workspace"))
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


def _found(rows: QuerySet[M], key: uuid.UUID | None, what: str) -> M:
    """`key`: None where what was asked for is no id at all."""
    found = rows.filter(pk=key).first() if key is not None else None
    if found is None:
        raise NotFound(what)
    return found
