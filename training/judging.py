"""A text tried on the classifier or regressor that came of a job: asked, waited for, and forgotten again.

Knows nothing of requests and pages.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db import transaction
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from inference import services as inference
from inference.formats.classifier_card import THRESHOLD
from inference.models import Generation
from inference.serving import Workers, not_served, without_ready_worker
from training.job_words import in_reader_language
from training.models import Job
from webapp.accounts import limits
from webapp.accounts.models import User
from webapp.core.errors import UserError

MAX_CHARACTERS = 20_000
# A page waits so long; a model that has to be loaded first takes seconds.
PATIENCE = 20.0
_FIRST_LOOK, _LONGEST_REST = 0.02, 0.2
_SHOWN = 10  # labels; a classifier may know a thousand


class Verdict(NamedTuple):
    label: str
    probability: float
    is_given: bool  # what the text is judged to be

    @property
    def percent(self) -> str:
        return number_format(round(100 * self.probability, 1), 1)


@dataclass
class Tried:
    """What the page shows: the likeliest labels first, or a number, or why there is neither."""

    text: str
    verdicts: list[Verdict] = field(default_factory=list)
    left_out: int = 0  # labels that are less likely than these
    value: float | None = None
    why: str = ""


def judge(*, job: Job, user: User, text: str) -> Tried:
    """Waits for at most PATIENCE seconds. Nothing of the text is kept."""
    text = _storable(text)
    tried = Tried(text)
    try:
        scores = _scores_of(job, user, text)
    except UserError as error:
        tried.why = error.message
        return tried
    if job.task == Job.Task.REGRESSION:
        tried.value = next(iter(scores.values()))
        return tried
    several = _may_be_several(job, scores)
    likeliest = sorted(scores.items(), key=lambda scored: -scored[1])
    best = likeliest[0][0]
    verdicts = [
        Verdict(label, score, score >= THRESHOLD if several else label == best) for label, score in likeliest
    ]
    tried.verdicts, tried.left_out = verdicts[:_SHOWN], len(verdicts[_SHOWN:])
    return tried


def _scores_of(job: Job, user: User, text: str) -> dict[str, float]:
    """Raises UserError."""
    if not text.strip():
        raise UserError("text_empty", _("Write something first."))
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            "text_too_long",
            _("This text has %(count)s characters; the most is %(most)s.")
            % {"count": f"{len(text):,}", "most": f"{MAX_CHARACTERS:,}"},
        )
    if job.model is None or job.model.removed_at is not None:
        raise UserError("model_gone", _("What came of this fine-tune has been removed."))
    whole = job.model.whole_id
    if not Workers().serve(whole):
        raise not_served(job.model)
    if without_ready_worker([whole]):
        raise UserError(
            "no_worker",
            _("Nothing is here to answer right now. Try again when a worker is back."),
            status=503,
        )
    with transaction.atomic():
        generation = inference.start_classification(
            workspace=job.workspace, model=job.model, text=text, user_id=user.pk
        )
        limits.admit(
            workspace_id=job.workspace_id,
            user_id=user.pk,
            api_key_id=None,
            tokens=limits.estimate_tokens([text], 0),
            slot=generation.pk,
        )
    try:
        return _waited_for(generation)
    finally:
        with transaction.atomic():
            inference.delete_generations(ids=[generation.pk])


def _waited_for(generation: Generation) -> dict[str, float]:
    give_up_at, rest = time.monotonic() + PATIENCE, _FIRST_LOOK
    while time.monotonic() < give_up_at:
        time.sleep(rest)
        rest = min(rest * 1.5, _LONGEST_REST)
        generation.refresh_from_db(fields=["state", "extras", "error_message"])
        if generation.state == Generation.State.COMPLETE:
            scores: dict[str, float] = generation.extras["scores"]
            return scores
        if generation.is_finished:
            why = in_reader_language(generation.error_message)
            raise UserError("not_judged", why or _("It was stopped before it was judged."))
    with transaction.atomic():
        inference.cancel_generation(generation_id=generation.pk)
    raise UserError(
        "too_slow",
        _("No answer came in time: the workers are busy, or still loading the model. Try again in a moment."),
        status=503,
    )


def _may_be_several(job: Job, scores: dict[str, float]) -> bool:
    """Whether a text may have several labels, or none."""
    if job.evaluation:
        return bool(job.evaluation["kind"] == "multilabel")
    return abs(sum(scores.values()) - 1) > 1e-3


def _storable(text: str) -> str:
    """As any database stores it."""
    return text.replace("\x00", "\ufffd").replace("\r\n", "\n")
