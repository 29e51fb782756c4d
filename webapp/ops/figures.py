"""What /metrics says of the whole site, whichever process is asked: generations, workers, queues."""

from __future__ import annotations

from collections.abc import Iterator

import redis
from django.conf import settings
from django.db.models import Count
from django.utils import timezone
from prometheus_client.core import GaugeMetricFamily

from inference import services as inference
from inference.models import Generation, Worker

QUEUES = ("training", "default", "data")


def generations() -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily("flywheel_generations", "Generations by state.", labels=["state"])
    counted = dict(Generation.objects.values_list("state").annotate(Count("id")).order_by())
    for state in Generation.State.values:
        family.add_metric([state], counted.get(state, 0))
    yield family


def workers() -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(
        "flywheel_workers", "Inference workers with a lease, by state.", labels=["state"]
    )
    alive = Worker.objects.filter(lease_expires_at__gt=timezone.now())
    counted = dict(alive.values_list("state").annotate(Count("id")).order_by())
    for state in Worker.State.values:
        family.add_metric([state], counted.get(state, 0))
    yield family


def queues() -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily("flywheel_queue_depth", "Tasks waiting in each queue.", labels=["queue"])
    prefix = settings.CELERY_BROKER_TRANSPORT_OPTIONS["global_keyprefix"]
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2) as client:
        for queue in (*inference.queues(), *QUEUES):
            length = client.llen(f"{prefix}{queue}")
            family.add_metric([queue], float(str(length)))
    yield family
