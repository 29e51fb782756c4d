"""The Celery application of every worker process. The web process only sends tasks, by name."""

import logging.config
import os
import sys
import warnings
from typing import Any

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from webapp.env import SettingsError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
# Containers run as root, and the warning's reason, unpickling messages, is not ours: we accept JSON only.
warnings.filterwarnings("ignore", category=SecurityWarning)
# Of late acknowledgement, which we do not use; it comes with every loss of the broker.
warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)

app = Celery("flywheel")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.on_configure.connect
def _read_settings(**_: Any) -> None:
    """A wrong setting ends a worker with its sentence, not with a traceback through Celery."""
    from django.conf import settings

    try:
        settings.configured or settings.DEBUG  # noqa: B018
    except SettingsError as error:
        sys.exit(f"flywheel: {error}")


@signals.setup_logging.connect
def _log_like_the_site(**_: Any) -> None:
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)


@signals.worker_init.connect
@signals.beat_init.connect
def _look_before_starting(**_: Any) -> None:
    import django

    django.setup()
    from webapp.ops import start

    if refusal := start.refusal():
        sys.exit(f"flywheel: {refusal}")
