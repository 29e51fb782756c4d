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

# Commands check the site. In a worker that would import every page: 0.6 s at each start, and 34 MB for good.
os.environ.setdefault("CELERY_SKIP_CHECKS", "true")

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
def _refuse_stale_schema(**_: Any) -> None:
    import django

    django.setup()
    from webapp.ops import schema

    if refusal := schema.refuse_if_stale():
        sys.exit(f"flywheel: {refusal}")
