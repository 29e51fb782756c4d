"""How jobs are said to people: their state in a word and a tone, what happened to them, what "auto" came to.

Rows keep English; what is known here is said in the reader's language. Knows nothing of how it is drawn.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, NamedTuple

from django.conf import settings as site
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from training import data_words, job_life, job_services, knob_fields
from training.estimate import Estimate
from training.job_forms import METHODS, PROMPTLESS
from training.knob_fields import KNOBS, label_of
from training.models import Job, JobEvent
from training.overview import Status
from training.sizes import spoken_size

_TONES = {
    Job.State.VALIDATING_FILES: "busy",
    Job.State.RUNNING: "busy",
    Job.State.PAUSED: "warning",
    Job.State.SUCCEEDED: "success",
    Job.State.FAILED: "danger",
}


def job_status(job: Job) -> Status:
    """ "training 42 %", "queued", "pausing"."""
    state = Job.State(job.state)
    tone = _TONES.get(state, "")
    if job.is_pruned:
        return Status(_("stopped early"))
    if job.wish and not job.is_finished and state != Job.State.PAUSED:
        return Status(str(job.get_wish_display()), tone)
    if state == Job.State.RUNNING and job.percent is not None and job.step:
        return Status(f"{job.get_state_display()} {job.percent} %", tone)
    return Status(str(job.get_state_display()), tone)


_KNOB = re.compile(rf"\b({'|'.join(re.escape(name) for name in KNOBS if not name.isalpha())})\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PLACE = re.compile(r"\{(\d)\}")
# The same again would end the same way: what helps is another job with other settings.
_HOPELESS = (
    *("spec", "data", "nan", "oom", "checkpoint", "model", "bad_knobs"),
    *("invalid_training_file", "invalid_validation_file", "file_not_found"),
    *("bad_task", "nothing_to_learn", "mixed_kinds"),
)


def next_step(job: Job) -> str:
    """The one thing to do next: "try" it in a chat, have it "judge" a text, "resume", "again" (with other settings), or
    nothing but to wait."""
    if job.state == Job.State.SUCCEEDED:
        if job.model is None or not job.model.is_served:
            return ""
        return "judge" if job.task in PROMPTLESS else "try"
    if job.state == Job.State.PAUSED:
        return "resume"
    if job.state == Job.State.FAILED:
        return "resume" if can_resume(job) and not is_hopeless(job) else "again"
    return ""


def is_hopeless(job: Job) -> bool:
    """Whether what failed would fail again with the same settings."""
    return job.error_code in _HOPELESS


def can_resume(job: Job) -> bool:
    """As `job_services.resume_job` has it, but for one that is just being paused."""
    ends_alone = job.search is None or job.search.finished_at is None
    has_data = job.version_id is not None or (job.training_file is not None and not job.attempt)
    return has_data and ends_alone and job_services.can_go_on(job)


def what_was_kept(job: Job, last_kept: int | None) -> str:
    """Of one that failed, can be resumed though it was cancelled, or is paused and less is saved than was learnt; else
    "".

    `last_kept`: the step of the last checkpoint whose files are there.
    """
    step = {"step": number_format(last_kept or 0, force_grouping=True)}
    if job.state == Job.State.FAILED:
        if last_kept is None and job_services.can_go_on(job):
            return _(
                "It ended before its first checkpoint: nothing of it was kept, and your data is as it was."
            )
        if last_kept is None:
            return _("What it had saved is no longer kept. Everything this page shows stays.")
        if not (day := _day_after(job, site.RETENTION_FAILED_DAYS)):
            return _("The checkpoint of step %(step)s is kept, with everything this page shows.") % step
        return _(
            "The checkpoint of step %(step)s is kept until %(day)s. Everything this page shows stays."
        ) % (step | {"day": day})
    if job.state == Job.State.PAUSED and job.step > (last_kept or 0):
        if last_kept is None:
            return _("Nothing of it is saved: it begins anew.")
        return _("It goes on from step %(step)s, the last that is saved.") % step
    if job.state == Job.State.CANCELLED and can_resume(job):
        if not (day := _day_after(job, site.RETENTION_CANCELLED_DAYS)):
            return _("The checkpoint of step %(step)s is kept: it can still be resumed.") % step
        return _("The checkpoint of step %(step)s is kept until %(day)s: it can be resumed till then.") % (
            step | {"day": day}
        )
    return ""


def _day_after(job: Job, days: int) -> str:
    """So many days after its end; "" where they are for ever."""
    if not days or job.finished_at is None:
        return ""
    return date_format(timezone.localtime(job.finished_at + timedelta(days=days)), "DATE_FORMAT")


def expectation(found: Estimate) -> str:
    return ngettext(
        "About %(time)s and %(memory)s of memory with the usual settings, as %(n)s job like it took here.",
        "About %(time)s and %(memory)s of memory with the usual settings, as %(n)s jobs like it took here.",
        found.jobs,
    ) % {"time": spoken_time(found.seconds), "memory": spoken_size(found.memory), "n": found.jobs}


def failure(job: Job) -> str:
    """Why it failed, with knobs called as the form calls them."""
    return in_labels(in_reader_language(job.error_message))


def in_reader_language(sentence: str) -> str:
    """A row's sentence, which may hold numbers: "Step 40 is saved." is known as "Step {0} is saved."."""
    if not sentence:
        return ""
    numbers = _NUMBER.findall(sentence)
    places = iter(range(len(numbers)))
    known = _NUMBER.sub(lambda _found: f"{{{next(places)}}}", sentence)
    translated = _(known)
    if translated == known:
        return data_words.said(sentence)
    return _PLACE.sub(lambda found: numbers[int(found[1])], translated)


def in_labels(sentence: str) -> str:
    """ "max_length" as the form's “Longest example”: what programs call a knob, nobody else does."""
    return _KNOB.sub(lambda found: f"“{label_of(found[0])}”", sentence)


def spoken_time(seconds: float) -> str:
    """ "40 seconds", "12 minutes", "3 hours 20 minutes", "2 days 4 hours"."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return ngettext("%(n)s second", "%(n)s seconds", whole) % {"n": whole}
    minutes = round(whole / 60)
    parts = [(minutes // 1440, _days), (minutes // 60 % 24, _hours), (minutes % 60, _minutes)]
    first = next(i for i, (count, _said) in enumerate(parts) if count)
    return " ".join(said(count) for count, said in parts[first : first + 2] if count)


def exact_time(seconds: float) -> str:
    """As times are compared: "0:12:20", below a minute "4.81 s"."""
    if seconds < 60:
        return _("%(seconds)s s") % {"seconds": number_format(round(seconds, 2), 2)}
    return str(timedelta(seconds=round(seconds)))


def _days(n: int) -> str:
    return ngettext("%(n)s day", "%(n)s days", n) % {"n": n}


def _hours(n: int) -> str:
    return ngettext("%(n)s hour", "%(n)s hours", n) % {"n": n}


def _minutes(n: int) -> str:
    return ngettext("%(n)s minute", "%(n)s minutes", n) % {"n": n}


def stage_name(job: Job) -> str:
    """What a job that is under way does right now."""
    if job.is_pruned:
        return _("It was stopped early: others were better by then.")
    if job.state == Job.State.VALIDATING_FILES:
        return _("Its files are being checked and frozen. You can leave this page: it goes on by itself.")
    if job.state == Job.State.QUEUED and not job_life.has_worker():
        return _("No worker for fine-tunes is running right now. It begins by itself as soon as one does.")
    if job.state == Job.State.QUEUED:
        return _("It waits for a free worker. You can leave this page: it goes on by itself.")
    if job.state != Job.State.RUNNING:
        return ""
    return {
        job_life.CHECKING: _("The data is being checked."),
        "loading": _("The model is being loaded."),
        "reading": _("The data is being read."),
        "evaluating": _("It is being judged by the validation split."),
        "asking": _("It is being asked the sample questions."),
        "saving": _("What it has learnt is being saved."),
        "finishing": _("Its result is being written and judged."),
        job_life.PUBLISHING: _("Its model is being put where workers find it."),
    }.get(job.stage, "")


class Setting(NamedTuple):
    label: Any
    value: str
    why: str


def settings(job: Job) -> list[Setting]:
    """What differs from the defaults: set by a person, or what "auto" came to and why. Prompts are shown elsewhere."""
    given = knob_fields.values_of(job.spec)
    rows = [Setting(label_of(name), _value(value), _("as it was set")) for name, value in given.items()]
    if "method" in job.spec:
        rows.insert(0, Setting(_("Method"), str(METHODS.get(job.spec["method"], "")), _("as it was set")))
    for made in job.chosen:
        why = str(made.get("why", ""))
        label = label_of(str(made.get("knob", "")))
        rows.append(Setting(label, _value(made.get("value")), in_reader_language(why)))
    return rows


def _value(value: object) -> str:
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int | float) and value == int(value):
        return number_format(int(value), force_grouping=True)
    return f"{value:g}" if isinstance(value, float) else str(value)


def event_tone(event: JobEvent) -> str:
    return {JobEvent.Level.WARNING: "warning", JobEvent.Level.ERROR: "danger"}.get(
        JobEvent.Level(event.level), ""
    )
