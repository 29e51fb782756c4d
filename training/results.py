"""The losses of a finished job as CSV, as OpenAI's results files have them. Knows nothing of who fetches it."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from itertools import groupby

from training import storage
from training.models import Job, Measurement
from webapp.core.plain_files import create_plain

logger = logging.getLogger(__name__)
# OpenAI's names first; what is not measured is empty.
COLUMNS = (
    *("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"),
    *("learning_rate", "epoch", "trained_tokens"),
)
_OF_TRAINING = ("learning_rate", "epoch", "trained_tokens")


def write_results(job: Job) -> tuple[int, int]:
    """The tokens that were learnt, over all steps, and the bytes of the file; 0 where it could not be written."""
    path, tokens = storage.result_path(job.id), 0
    try:
        with create_plain(path.parent, path.name, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for learnt, row in _rows(job):
                tokens += learnt
                rows.writerow(row)
        return tokens, path.stat().st_size
    except OSError as error:
        # What was learnt is worth more than the list of how.
        logger.error("the results of job %s were not written: %s", job.id, error)
        storage.remove_file(path)
        return sum(learnt for learnt, _row in _rows(job)), 0


def _rows(job: Job) -> Iterator[tuple[int, list[object]]]:
    """Of each step: the tokens it learnt, and its row."""
    measured = Measurement.objects.filter(job=job).order_by("step", "kind").iterator()
    for step, found in groupby(measured, lambda each: each.step):
        of_step = {each.kind: each for each in found}
        train = of_step.get(Measurement.Kind.TRAIN)
        validation = of_step.get(Measurement.Kind.VALIDATION)
        values = train.values if train is not None else {}
        losses = [each.loss if each is not None else "" for each in (train, validation)]
        row = [step, losses[0], "", losses[1], "", *(values.get(name, "") for name in _OF_TRAINING)]
        yield int(values.get("trained_tokens") or 0), row
