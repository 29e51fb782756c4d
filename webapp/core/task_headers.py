"""What tasks say besides their arguments: all of them when they were sent, and those that Celery sends for which
request. (The others' rows name it.) Knows no task of ours.

So a queue's age can be told, and what a worker logs of a task names the request that asked for it.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from celery.signals import before_task_publish, task_postrun, task_prerun

from webapp.core.request_ids import current_request_id

SENT_AT = "sent_at"  # seconds since 1970
REQUEST_ID = "request_id"


@before_task_publish.connect
def _say(headers: dict[str, Any], **_: Any) -> None:
    headers[SENT_AT] = time.time()
    if request_id := current_request_id():
        headers[REQUEST_ID] = request_id


@task_prerun.connect
def _bind(task: Any, **_: Any) -> None:
    # Threads do one task after the other.
    structlog.contextvars.clear_contextvars()
    if request_id := task.request.get(REQUEST_ID):
        structlog.contextvars.bind_contextvars(request_id=request_id)


@task_postrun.connect
def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()
