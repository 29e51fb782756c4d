"""The status page: for the site's operators, who are known by `User.is_staff`; for everybody else there is none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from inference.models import Worker
from inference.serving import has_its_first_model
from training.models import Job
from training.overview import Status as Word
from webapp.accounts.requests import person
from webapp.core.errors import NotFound
from webapp.ops import status_words
from webapp.ops.status import ERRORS_SHOWN, ProcessRow, read_status


class _Row(NamedTuple):
    process: ProcessRow
    name: str
    state: Word
    doing: str


@never_cache
@login_required
@require_GET
def status(request: HttpRequest) -> HttpResponse:
    return _answer(request, "ops/status.html")


@never_cache
@login_required
@require_GET
def status_now(request: HttpRequest) -> HttpResponse:
    """What the page's script asks for every few seconds."""
    return _answer(request, "ops/status_now.html")


def _answer(request: HttpRequest, template: str) -> HttpResponse:
    if not person(request).is_staff:
        raise NotFound(_("That page"))
    return render(request, template, _context() | {"section": "status", "is_still": "still" in request.GET})


def _context() -> dict[str, Any]:
    found = read_status()
    queues = found.queues
    return {
        "status": found,
        "findings": status_words.findings(found),
        "processes": [
            _Row(process, status_words.kind_name(process.kind), state_of(process), doing_of(process))
            for process in found.processes
        ],
        "sockets": sum(process.sockets for process in found.processes),
        "queues": None if queues is None else [(status_words.QUEUES[queue.name], queue) for queue in queues],
        "jobs": [(state.label, found.jobs[state]) for state in Job.State if found.jobs.get(state)],
        "disks": found.disks,
        "errors": [
            (datetime.fromtimestamp(error.at, UTC), error) for error in (found.errors or [])[:ERRORS_SHOWN]
        ],
    }


def state_of(process: ProcessRow) -> Word:
    if process.worker is None:
        return Word(_("running"), "success")
    state = Worker.State(process.worker.state)
    if state == Worker.State.BROKEN and has_its_first_model(process.worker):
        state = Worker.State.LOADING
    words = {
        Worker.State.LOADING: Word(_("loading its model"), "busy"),
        Worker.State.READY: Word(_("ready"), "success"),
        Worker.State.BROKEN: Word(_("cannot load its model"), "danger"),
        Worker.State.STOPPING: Word(_("stopping"), "busy"),
    }
    return words[state]


def doing_of(process: ProcessRow) -> str:
    """What it has in hand; "" where that says nothing."""
    said = []
    if process.places:
        said.append(_("%(n)s of %(places)s replies") % {"n": process.generations, "places": process.places})
    if process.worker is not None:
        said.append(_("lease for %(n)s s") % {"n": process.lease_seconds})
    if "web" in process.kind:
        said.append(ngettext("%(n)s open page", "%(n)s open pages", process.sockets) % {"n": process.sockets})
    return ", ".join(said)
