"""Template tags of the pages of jobs: a state in a word, times, scores. Knows nothing of requests."""

from __future__ import annotations

from django import template
from django.utils.formats import number_format

from training import job_words
from training.models import Job
from training.overview import Status

register = template.Library()


@register.filter
def job_status(job: Job) -> Status:
    return job_words.job_status(job)


@register.filter
def can_resume(job: Job) -> bool:
    return job_words.can_resume(job)


@register.filter
def spoken_time(seconds: float) -> str:
    return job_words.spoken_time(seconds)


@register.filter
def rate(value: float) -> str:
    """With as many digits as slow machines need: 0.4 examples a second are not none."""
    digits = 0 if value >= 10 else 1 if value >= 1 else 2
    return number_format(round(value, digits), digits, force_grouping=True)


@register.filter
def score(value: float | None) -> str:
    """Three digits, as scores are compared; a dash where there is none."""
    return "—" if value is None else number_format(round(value, 3), 3)
