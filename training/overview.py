"""What state a dataset is in, in a word and a tone, and what the next step is. Knows nothing of how that is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from django.utils.translation import gettext as _

from training import access
from training.datasets.recipe import Recipe, Split
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from webapp.accounts.models import User, Workspace


@dataclass(frozen=True)
class Status:
    word: str
    tone: str = ""  # "success", "warning", "danger", "busy"


@dataclass(frozen=True)
class Row:
    """A line of the list of datasets."""

    dataset: Dataset
    status: Status
    files: int
    size: int  # bytes
    versions: int


def list_rows(user: User, workspace: Workspace) -> list[Row]:
    """Raises NotFound."""
    datasets = list(access.list_datasets(user, workspace))
    last = access.last_work(datasets)
    return [_row(dataset, last.get(dataset.id)) for dataset in datasets]


def _row(dataset: Dataset, last: DataWork | None) -> Row:
    files, versions = list(dataset.files.all()), list(dataset.versions.all())
    ready = [version for version in versions if version.state == DatasetVersion.State.READY]
    return Row(dataset, _status(files, ready, last), len(files), sum(file.size for file in files), len(ready))


def _status(files: list[SourceFile], ready: list[DatasetVersion], last: DataWork | None) -> Status:
    if last is not None and last.is_unfinished:
        return work_status(last)
    if not files:
        return Status(_("empty"))
    if any(file.state == SourceFile.State.UPLOADING for file in files):
        return Status(_("uploading"), "busy")
    if last is not None and last.state == DataWork.State.FAILED:
        return Status(_("failed"), "danger")
    if ready:
        return Status(_("frozen"), "success")
    if last is not None and last.kind != DataWork.Kind.DETECT and last.state == DataWork.State.READY:
        return Status(_("checked"), "success")
    return Status(_("not checked"), "warning")


def work_status(work: DataWork) -> Status:
    if work.state == DataWork.State.RUNNING and work.percent is not None:
        return Status(f"{work.get_kind_display()} {work.percent} %", "busy")
    if work.is_unfinished:
        return Status(work.get_kind_display(), "busy")
    tones = {DataWork.State.READY: "success", DataWork.State.FAILED: "danger"}
    return Status(work.get_state_display(), tones.get(DataWork.State(work.state), ""))


def split_doubts(sizes: Mapping[str, int], split: Split) -> list[str]:
    """What is amiss with splits of these sizes, of which `split` was asked for."""
    doubts = []
    if not sizes["validation"]:
        doubts.append(
            _(
                "No example is held back for validation, so nobody will see whether a model learns or only memorises. "
                "Add examples, or raise the share for validation."
            )
        )
    if split.test and not sizes["test"]:
        doubts.append(
            _("No example is held back for the test. Add examples, or raise the share for the test.")
        )
    if doubts and sizes["train"] > 1:
        doubts.append(
            _(
                "Examples of one conversation or person, and those that nearly repeat each other, stay together."
            )
        )
    return doubts


def doubts_of(version: DatasetVersion) -> list[str]:
    """About the splits of one that is ready."""
    sizes = {"train": version.train, "validation": version.validation, "test": version.test}
    return split_doubts(sizes, msgspec.convert(version.recipe, Recipe).split)


def stage_name(stage: str) -> str:
    """What a worker says it is at, in the reader's language."""
    return {
        "": _("beginning"),
        "reading": _("reading"),
        "profiling": _("counting"),
        "comparing": _("looking for repetitions"),
        "cleaning": _("cleaning"),
        "splitting": _("splitting"),
        "writing": _("writing"),
    }.get(stage, stage)
