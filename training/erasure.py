"""What erasing a person means for data and jobs: what they alone had goes with its files; what their workspaces share
stays, without their name."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.translation import gettext as _

from training.models import Dataset, DatasetVersion, Job, Search
from webapp.accounts.erasure import ErasureLine, register_eraser, sole_workspaces
from webapp.accounts.models import User


def erase(user: User) -> Iterable[ErasureLine]:
    """Runs inside the erasing transaction; files go when it commits."""
    jobs = Job.objects.filter(workspace__in=sole_workspaces(user))
    names = list(jobs.order_by("name").values_list("name", flat=True))
    for job in list(jobs):
        job.delete()
    yield ErasureLine(_("Fine-tunes only you could see, with what they learnt"), len(names), ", ".join(names))
    own = Dataset.objects.filter(workspace__in=sole_workspaces(user))
    versions = DatasetVersion.objects.filter(dataset__in=own).count()
    names = list(own.order_by("name").values_list("name", flat=True))
    for dataset in list(own):
        dataset.delete()
    yield ErasureLine(_("Datasets only you could see, with their files"), len(names), ", ".join(names))
    yield ErasureLine(_("Versions of them"), versions)
    shared = Dataset.objects.filter(created_by=user)
    names = list(shared.order_by("name").values_list("name", flat=True))
    DatasetVersion.objects.filter(created_by=user).update(created_by=None)
    shared.update(created_by=None)
    note = _("kept for their workspaces, without your name: %(names)s")
    yield ErasureLine(
        _("Datasets you made for others too"), len(names), note % {"names": ", ".join(names)} if names else ""
    )
    shared_jobs = Job.objects.filter(created_by=user)
    names = list(shared_jobs.order_by("name").values_list("name", flat=True))
    shared_jobs.update(created_by=None)
    Search.objects.filter(created_by=user).update(created_by=None)
    yield ErasureLine(
        _("Fine-tunes you made for others too"),
        len(names),
        note % {"names": ", ".join(names)} if names else "",
    )


register_eraser("training", erase)
