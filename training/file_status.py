"""How far files are, as programs are told: being looked at, good to learn from, or what is wrong with them.

Knows nothing of requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.db.models.fields.json import KeyTransform

from training import storage
from training.models import DataWork, SourceFile
from training.problem_list import counts_of, first_error, spoken


class FileStatus(NamedTuple):
    """OpenAI's words. `details`: a sentence, where there is something to say."""

    word: Literal["uploaded", "processed", "error"]
    details: str | None = None


def statuses(files: Sequence[SourceFile]) -> dict[UUID, FileStatus]:
    """By the files' ids. A file with an example that a job would fail of is an error."""
    datasets = {file.dataset_id for file in files}
    together = Counter(
        SourceFile.objects.filter(dataset__in=datasets).order_by().values_list("dataset", flat=True)
    )
    # Of a result only what is needed: its previews are long.
    checks = (
        DataWork.objects.filter(dataset__in=datasets, kind=DataWork.Kind.REPORT)
        .annotate(
            problems=KeyTransform("problems", "result"), severities=KeyTransform("severities", "result")
        )
        .defer("result")
        .order_by("created_at", "id")
    )
    last = {check.dataset_id: check for check in checks}
    return {
        file.id: _status(file, last.get(file.dataset_id), is_alone=together[file.dataset_id] == 1)
        for file in files
    }


def _status(file: SourceFile, check: Any, *, is_alone: bool) -> FileStatus:
    if file.state == SourceFile.State.UNREADABLE:
        return FileStatus("error", file.refusal.reason)
    if file.state != SourceFile.State.READY or check is None or check.is_unfinished:
        return FileStatus("uploaded")
    if not is_alone or check.state == DataWork.State.CANCELLED:
        return FileStatus("processed")  # of what a check of several found, nobody can say whose it is
    if check.state == DataWork.State.FAILED:
        return FileStatus("error", check.error_message or None)
    errors = counts_of({"problems": check.problems, "severities": check.severities}, "error").total()
    if not errors:
        return FileStatus("processed")
    first = first_error(storage.work_folder(check))
    more = f" There are {errors} such problems in all." if errors > 1 else ""
    return FileStatus("error", spoken(first) + more if first is not None else more.strip() or None)
