"""The Celery application of every worker process. The web process only sends tasks, by name."""

import atexit
import logging.config
import os
import sys
import warnings
from typing import Any

from celery import Celery, signals
from celery.exceptions import SecurityWarning

from webapp.core.pulse import beat_into
from webapp.env import SettingsError
from webapp.ops.processes import QUEUES

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
# Containers run as root, and the warning's reason, unpickling messages, is not ours: we accept JSON only.
warnings.filterwarnings("ignore", category=SecurityWarning)

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
        pulse_file = settings.PULSE_FILE
    except SettingsError as error:
        sys.exit(f"flywheel: {error}")
    if pulse_file is not None:
        beat_into(pulse_file, app)


@signals.setup_logging.connect
def _log_like_the_site(**_: Any) -> None:
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)


@signals.worker_ready.connect
def _give_out_figures(sender: Any, **_: Any) -> None:
    """Not before: who is told to stop while it is still starting ends at once, and could not take them back."""
    from webapp.core import snapshots

    queues = sender.app.amqp.queues.consume_from
    snapshots.start("+".join(kind for kind, queue in QUEUES.items() if queue in queues) or "worker")


@signals.beat_init.connect
def _give_out_figures_of_beat(**_: Any) -> None:
    from webapp.core import snapshots

    snapshots.start("beat")
    # Celery says when a worker ends, and not when beat does.
    atexit.register(snapshots.stop)


@signals.worker_shutdown.connect
def _give_out_no_more(**_: Any) -> None:
    from webapp.core import snapshots

    snapshots.stop()


@signals.task_prerun.connect
def _have_a_database(**_: Any) -> None:
    """A worker's threads keep their connections for many tasks; see CELERY_DB_REUSE_MAX."""
    from webapp.core.lost_database import drop_lost_connections

    drop_lost_connections()


@signals.worker_init.connect
@signals.beat_init.connect
def _look_before_starting(**_: Any) -> None:
    import django

    django.setup()
    from webapp.ops import start_checks

    if refusal := start_checks.refusal():
        sys.exit(f"flywheel: {refusal}")
