"""What the first report of a worker would wait for, opened as soon as the worker is ready: libraries and vocabularies.

A worker keeps them after its first report anyway: their memory is only taken sooner. Knows nothing of data.
"""

from __future__ import annotations

import logging
import threading

from django.db import connection

from inference import local_models
from inference.models import ServedModel

logger = logging.getLogger(__name__)


def begin() -> threading.Thread:
    """Beside whatever the worker is asked meanwhile: what needs the same waits for it, and nothing is opened twice."""
    thread = threading.Thread(target=_warm, name="warming", daemon=True)
    thread.start()
    return thread


def _warm() -> None:
    try:
        from training.datasets import detect, profile, reading  # noqa: F401
        from training.datasets.languages import open_classifier
        from training.datasets.measure import open_encoder

        open_classifier()
        # Whose tokens a first report counts. Where it would have to be fetched first, that may take minutes.
        model = ServedModel.objects.filter(is_default=True).first()
        if model is not None and model.location.exists():
            with local_models.hold(model):
                open_encoder(str(model.location))
    except Exception as error:  # the report that needs it says what is wrong
        logger.info("the first report will have to wait: %s", error)
    finally:
        connection.close()
