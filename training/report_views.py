"""The page of a report: what is wrong with the data, what is in it, how long it is, what of it would be learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from inference.models import ServedModel
from training import access, charts, problem_list, services, storage
from training import work as life
from training.datasets.languages import UNKNOWN
from training.datasets.recipe import Split
from training.datasets.report import Histogram, Report
from training.estimate import estimate
from training.forms import PERSONAL_DATA, ReportForm
from training.job_words import expectation
from training.knobs import tasks_of
from training.models import Dataset, DataWork
from training.views import page
from webapp.accounts.requests import page_number, person, posted
from webapp.core.errors import NotFound

PAGE_SIZE = 10
PREVIEWS = 3
LABELS_AT_ONCE = 30
_SPLIT = Split()  # as it is frozen where nobody says otherwise
_TONES = {"error": "danger", "warning": "warning", "notice": ""}


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def report(request: HttpRequest, dataset_id: UUID) -> HttpResponse:
    dataset = access.get_dataset(person(request), dataset_id)
    work = life.unfinished(dataset)  # first, as in views.file_table
    made = services.last_report(dataset)
    form = ReportForm(posted(request), dataset=dataset, initial=services.report_defaults(made))
    if request.method == "POST" and form.is_valid():
        wanted = form.cleaned_data
        services.start_report(
            dataset=dataset,
            model=wanted["model"],
            max_tokens=wanted["max_tokens"] or 0,
            evaluation=wanted.get("evaluation", ""),
        )
        return redirect("dataset_report", dataset.pk)
    context: dict[str, Any] = {
        "form": form,
        "work": work,
        "failed": services.last_failure(dataset, DataWork.Kind.REPORT),
        "made": made,
    }
    if made is not None:
        context |= {"is_current": services.is_current(made)} | _found(request, made)
    status = 400 if form.errors else 200
    return render(request, "training/report.html", page(dataset, "report") | context, status=status)


def _found(request: HttpRequest, made: DataWork) -> dict[str, Any]:
    report = msgspec.convert(made.result, Report)
    code = request.GET.get("code", "")
    code = code if any(count.name == code for count in report.problems) else ""
    number = page_number(request)
    labels = [(c.name, c.count) for c in report.labels]
    problems, more = problem_list.page_of_problems(storage.work_folder(made), code, number, PAGE_SIZE)
    return {
        "report": report,
        "codes": [
            (
                count,
                report.severities.get(count.name, ""),
                _TONES.get(report.severities.get(count.name, ""), ""),
            )
            for count in report.problems
        ],
        "code": code,
        "problems": problems,
        "number": number,
        "first_previews": report.previews[:PREVIEWS],
        "more_previews": report.previews[PREVIEWS:],
        "more": more,
        "chart": charts.histogram(report.tokens) if report.tokens else "",
        "bins": _bins(report.tokens) if report.tokens else [],
        "values_chart": charts.histogram(report.values) if report.values else "",
        "value_bins": _bins(report.values) if report.values else [],
        "trained_share": _share(report.trained_tokens, _all_tokens(report.tokens)),
        "personal_data": [(PERSONAL_DATA.get(c.name, c.name), c.count) for c in report.personal_data],
        "personal_kinds": [str(name) for name in PERSONAL_DATA.values()],
        # "de", or of translations "de → en".
        "languages": [(c.name.replace(UNKNOWN, _("unknown")), c.count) for c in report.languages],
        "first_labels": labels[:LABELS_AT_ONCE],
        "more_labels": labels[LABELS_AT_ONCE:],
        "expected": _expected(report),
        "has_training": bool(tasks_of(report.kind, has_labels=bool(report.labels))),
    }


def _expected(report: Report) -> str:
    """What it will take to learn the usual share of it, as far as jobs like it have shown; "" where none has."""
    base = ServedModel.objects.filter(name=report.target_model or "").first()
    tasks = tasks_of(report.kind, has_labels=bool(report.labels))
    if base is None or report.tokens is None or not tasks:
        return ""
    train = round(report.tokens.total * (1 - _SPLIT.validation - _SPLIT.test))
    found = estimate(
        base=base,
        task=tasks[0],
        spec={},
        lengths=report.tokens,
        examples=train,
        divided=report.kind == "document",
    )
    return expectation(found) if found is not None else ""


def _bins(found: Histogram) -> list[tuple[str, str, int]]:
    edges = [charts.whole(edge) for edge in found.edges]
    return [(edges[i], edges[i + 1], count) for i, count in enumerate(found.counts)]


def _all_tokens(found: Histogram | None) -> float:
    return found.mean * found.total if found else 0.0


def _share(part: float, whole: float) -> int | None:
    """In per cent."""
    return round(100 * part / whole) if whole else None


@never_cache
@login_required
@require_GET
def problems_jsonl(request: HttpRequest, dataset_id: UUID) -> StreamingHttpResponse:
    folder, code = _asked(request, dataset_id)
    return _attachment(problem_list.jsonl(folder, code), "application/jsonl", "problems.jsonl")


@never_cache
@login_required
@require_GET
def problems_csv(request: HttpRequest, dataset_id: UUID) -> StreamingHttpResponse:
    folder, code = _asked(request, dataset_id)
    return _attachment(problem_list.csv_rows(folder, code), "text/csv; charset=utf-8", "problems.csv")


def _asked(request: HttpRequest, dataset_id: UUID) -> tuple[Path, str]:
    dataset: Dataset = access.get_dataset(person(request), dataset_id)
    made = services.last_report(dataset)
    if made is None:
        raise NotFound(_("That report"))
    return storage.work_folder(made), request.GET.get("code", "")


def _attachment(content: Any, content_type: str, name: str) -> StreamingHttpResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingHttpResponse(content, content_type=content_type, headers=headers)
