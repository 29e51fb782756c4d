"""What the list says of a search and what its page shows, made from rows. Knows nothing of requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from training import job_charts, job_words
from training.job_words import in_labels, in_reader_language
from training.knob_fields import choice_label, label_of
from training.models import Job, Search
from training.overview import Status
from training.search_space import Space, by_time, judged_length, knob_values
from training.sizes import spoken_size
from training.trainer.evaluation import headline
from training.trainer.spec import EFFORT

FIGURES: dict[str, Any] = {
    "accuracy": _lazy("Accuracy"), "precision": _lazy("Precision"), "recall": _lazy("Recall"), "f1": "F1",
    "roc_auc": "ROC-AUC", "mse": _lazy("Mean squared error"), "rmse": _lazy("Its root"),
    "mae": _lazy("Mean absolute error"), "r2": "R²",
}  # fmt: skip


class Row(NamedTuple):
    """A trial or a fold."""

    job: Job
    values: list[tuple[Any, str]]  # of each knob, or of each figure, with what it is called
    is_best: bool


class Spread(NamedTuple):
    label: Any
    mean: float | None
    std: float | None
    folds: int


class Listed(NamedTuple):
    """A line of the list of fine-tunes."""

    search: Search
    status: Status
    best_loss: float | None

    @property
    def created_at(self) -> datetime:
        return self.search.created_at

    @property
    def is_busy(self) -> bool:
        return self.search.finished_at is None


def wanted(search: Search) -> int:
    """Jobs there are to be."""
    return int(search.parameters["trials" if search.kind == Search.Kind.SEARCH else "folds"])


def ended(jobs: Sequence[Job]) -> int:
    return sum(job.is_finished for job in jobs)


def search_status(search: Search, jobs: Sequence[Job]) -> Status:
    if search.finished_at is None:
        word = _("cancelling") if search.cancel_requested else search.get_kind_display()
        return Status(f"{word} {ended(jobs)} / {wanted(search)}", "busy")
    if search.cancel_requested:
        return Status(_("cancelled"))
    if not any(job.state == Job.State.SUCCEEDED for job in jobs):
        return Status(_("failed"), "danger")
    return Status(_("succeeded"), "success")


def listed(search: Search) -> Listed:
    jobs = list(search.jobs.all())
    best = search.best(jobs)
    return Listed(search, search_status(search, jobs), best.best_validation_loss if best else None)


def search_context(search: Search) -> dict[str, Any]:
    jobs = list(Job.objects.filter(search=search).select_related("model__base").order_by("number"))
    context = {
        "search": search,
        "status": search_status(search, jobs),
        "task": Job.Task(search.parameters["task"]),
        "ended": ended(jobs),
        "wanted": wanted(search),
        "is_busy": search.finished_at is None,
        "error": in_labels(in_reader_language((search.result or {}).get("error", ""))),
    }
    return context | (
        _of_folds(search, jobs) if search.kind == Search.Kind.FOLDS else _of_trials(search, jobs)
    )


def _of_trials(search: Search, jobs: list[Job]) -> dict[str, Any]:
    space, best = search.parameters["space"], search.best(jobs)
    looked_for = [(label_of(name), _range(asked)) for name, asked in space.items()]
    labels = [label for label, _limits in looked_for]
    said = {job.id: [_said(value) for value in knob_values(job.spec, space).values()] for job in jobs}
    if {*EFFORT} & {*space}:  # what those knobs are for
        labels += [_("Time spent"), _("Memory")]
        for job in jobs:
            said[job.id] += _took(job)
    judged = [job for job in jobs if job.best_validation_loss is not None and job.is_finished]
    done = [job for job in judged if job.state == Job.State.SUCCEEDED]
    # The loss that a trial had come to when it was stopped early is drawn, and is no best; its time says nothing.
    drawn = done if by_time(space) else judged
    results = {job: job.seconds if by_time(space) else job.best_validation_loss or 0.0 for job in drawn}
    importance = (search.result or {}).get("importance", {})
    return {
        "columns": labels,
        "looked_for": looked_for,
        "how": list(_how_compared(search.parameters["task"], space)),
        "rows": [Row(job, list(zip(labels, said[job.id], strict=True)), job == best) for job in jobs],
        "best": best,
        "best_values": list(zip(labels, said[best.id], strict=True)) if best else [],
        "next_step": job_words.next_step(best) if best is not None else "",
        "charted": _("Time spent, in seconds") if by_time(space) else _("Validation loss"),
        "chart": _chart(results, done, wanted(search)) if results else "",
        "importance": [(label_of(name), round(100 * share)) for name, share in importance.items()],
    }


def _chart(results: dict[Job, float], done: list[Job], wanted: int) -> SafeString:
    points = [(job.number, result) for job, result in results.items()]
    return job_charts.trials(points, _best_so_far([(job.number, results[job]) for job in done]), wanted)


def _how_compared(task: str, space: Space) -> Iterator[str]:
    """Sentences, where it is not plainly by the loss of each."""
    if length := judged_length(task, space):
        yield _("All trials are judged by the same validation text, up to %(length)s tokens at a time.") % {
            "length": _said(length)
        }
    if by_time(space):
        yield _(
            "What is searched for changes how steps are computed and not what is learnt: the fastest trial is the best."
        )
    elif {*EFFORT} & {*space}:
        yield _(
            "Of trials that learn the same, the fastest is the best: their losses differ by chance alone."
        )


def _took(job: Job) -> list[str]:
    return [
        job_words.exact_time(job.seconds) if job.seconds else "—",
        spoken_size(job.memory) if job.memory else "—",
    ]


def _best_so_far(results: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """As steps: level until a better one comes."""
    found: list[tuple[float, float]] = []
    for number, result in results:
        if not found:
            found.append((number, result))
        elif result < found[-1][1]:
            found += [(number, found[-1][1]), (number, result)]
        else:
            found.append((number, found[-1][1]))
    return found


def _of_folds(search: Search, jobs: list[Job]) -> dict[str, Any]:
    figures = [headline(job.evaluation) if job.evaluation else {} for job in jobs]
    names = list(next((found for found in figures if found), {}))
    result = search.result or {}
    return {
        "columns": [FIGURES[name] for name in names],
        "rows": [
            Row(job, [(FIGURES[name], _score(found.get(name))) for name in names], False)
            for job, found in zip(jobs, figures, strict=True)
        ],
        "spreads": [
            Spread(FIGURES[name], found["mean"], found["std"], found["folds"])
            for name, found in result.get("figures", {}).items()
        ],
        "summarised": result.get("folds", 0),
        "failed": result.get("failed", []),
    }


def _range(asked: dict[str, Any]) -> str:
    if "choices" in asked:
        return ", ".join(_said(choice) for choice in asked["choices"])
    return _("%(low)s to %(high)s") % {"low": _said(asked["low"]), "high": _said(asked["high"])}


def _said(value: object) -> str:
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, int):
        return number_format(value, force_grouping=True)
    if isinstance(value, float):
        return number_format(Decimal(f"{Decimal(f'{value:.3g}'):f}"), force_grouping=True)
    return str(choice_label(value))


def _score(value: float | None) -> str:
    return "—" if value is None else number_format(round(value, 3), 3)
