"""What operations do by the clock, on queue `default`. Thin."""

from __future__ import annotations

import logging

from celery import shared_task
from django.conf import settings

from webapp.accounts import services as accounts
from webapp.core import clock
from webapp.ops.backup.alone import release_held
from webapp.ops.retention import retain

logger = logging.getLogger(__name__)


@shared_task(name="ops.retain")
def retain_all() -> None:
    if (now := clock.deletion_time()) is None:
        return
    accounts.delete_expired_log_ins(now=now)
    for what, days, count in retain(now=now):
        if count:
            logger.info("%s older than %s days were deleted: %s", what, days, count)


@shared_task(name="ops.sweep_backups")
def sweep_backups() -> None:
    release_held(settings.FLYWHEEL_HOME)
