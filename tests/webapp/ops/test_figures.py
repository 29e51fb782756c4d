"""What figures say: each is of what its name says, and tells one state of affairs from the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from inference import worker_metrics
from inference.engine.interface import EngineFigures
from inference.models import Generation, ServedModel
from inference.task_messages import queue_key
from tests.services import Valkey
from training.models import Job
from webapp.accounts.models import Workspace
from webapp.api.models import Webhook, WebhookDelivery
from webapp.core import metrics, snapshots
from webapp.core.task_headers import SENT_AT
from webapp.ops.backup.last import LastBackup, note

pytestmark = pytest.mark.django_db
Figures = Callable[[], dict[str, float]]


@pytest.fixture
def figures(client: Client, monkeypatch: pytest.MonkeyPatch) -> Figures:
    """Values by name and labels, but for that of the process: `name{a="b"}`."""
    monkeypatch.setattr(metrics, "CACHE_SECONDS", -1.0)
    monkeypatch.setattr(snapshots, "_reporter", None)

    def scrape() -> dict[str, float]:
        text = client.get("/metrics", headers={"Host": "localhost"}).content.decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{n}="{v}"' for n, v in sorted(sample.labels.items()) if n != "process")
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    return scrape


@pytest.fixture
def model(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="scripted", path="scripted", digest="0" * 64, architecture="scripted", context_length=100, parameters=1,
        size_bytes=1, is_default=True,
    )  # fmt: skip


@pytest.fixture
def configured(broker: Valkey) -> Iterator[Callable[[str, str], None]]:
    """Changes the broker's configuration for this test."""
    with broker.client() as client:
        usual: dict[str, Any] = {}

        def configure(name: str, value: str) -> None:
            usual.setdefault(name, client.config_get(name)[name])
            client.config_set(name, value)

        yield configure
        for name, value in usual.items():
            client.config_set(name, value)


def test_a_workers_blocks_prefixes_adapters_and_models() -> None:
    told = EngineFigures(
        kv_blocks=100,
        kv_blocks_used=30,
        kv_blocks_kept=20,
        prefix_tokens=50,
        prefix_tokens_reused=40,
        adapters=3,
    )
    collect = worker_metrics.collector(lambda: (told, {"a": 2, "b": 0}))
    found = {(s.name, *s.labels.values()): s.value for family in collect() for s in family.samples}
    assert {key: value for key, value in found.items() if key[0] != "flywheel_generation_places"} == {
        ("flywheel_kv_blocks", "used"): 30,
        ("flywheel_kv_blocks", "kept"): 20,
        ("flywheel_kv_blocks", "empty"): 50,
        ("flywheel_prefix_cache_tokens_total", "hit"): 40,
        ("flywheel_prefix_cache_tokens_total", "miss"): 10,
        ("flywheel_adapters_loaded",): 3,
        ("flywheel_models_loaded",): 2,
        ("flywheel_model_generations", "a"): 2,
        ("flywheel_model_generations", "b"): 0,
    }


def test_how_many_tasks_wait_in_each_queue_and_how_long_the_oldest_has(
    figures: Figures, broker: Valkey
) -> None:
    with broker.client() as client:
        for age in (100, 10):  # as Celery does: the next to be taken is the last
            client.lpush(queue_key("default"), json.dumps({"headers": {SENT_AT: time.time() - age}}))
        client.lpush(queue_key("data"), b"not a task")
    found = figures()
    assert found['flywheel_queue_depth{queue="default"}'] == 2
    assert 100 <= found['flywheel_queue_oldest_seconds{queue="default"}'] < 110
    assert found['flywheel_queue_depth{queue="data"}'] == 1
    assert found['flywheel_queue_oldest_seconds{queue="data"}'] == 0
    assert found['flywheel_queue_depth{queue="training"}'] == 0


def test_a_broker_that_evicts_or_does_not_persist(
    figures: Figures, configured: Callable[[str, str], None]
) -> None:
    found = figures()
    assert (found["flywheel_broker_evicts"], found["flywheel_broker_persists"]) == (0, 1)
    assert found["flywheel_broker_memory_limit_bytes"] == 0
    configured("maxmemory", str(2**30))
    configured("maxmemory-policy", "allkeys-lru")
    configured("appendonly", "no")
    found = figures()
    assert (found["flywheel_broker_evicts"], found["flywheel_broker_persists"]) == (1, 0)
    assert found["flywheel_broker_memory_limit_bytes"] == 2**30
    assert 0 < found["flywheel_broker_memory_bytes"] < 2**30


def test_when_the_last_backup_ended(figures: Figures, settings: LazySettings, tmp_path: Path) -> None:
    settings.FLYWHEEL_HOME = tmp_path
    (tmp_path / "run").mkdir()
    assert figures()["flywheel_last_backup_timestamp_seconds"] == 0
    note(LastBackup(datetime(2026, 11, 29, 13, 45, tzinfo=UTC)))
    assert figures()["flywheel_last_backup_timestamp_seconds"] == 1795959900


def test_deliveries_that_wait_and_those_that_are_overdue(figures: Figures, workspace: Workspace) -> None:
    webhook = Webhook.objects.create(workspace=workspace, name="w", url="https://a.example", secret="s")
    now = timezone.now()
    for next_at in (None, now + timedelta(hours=1), now - timedelta(seconds=30), now - timedelta(minutes=2)):
        state = "delivered" if next_at is None else "pending"
        WebhookDelivery.objects.create(webhook=webhook, type="t", body="{}", state=state, next_at=next_at)
    found = figures()
    assert found['flywheel_webhook_deliveries{state="pending"}'] == 3
    assert found['flywheel_webhook_deliveries{state="overdue"}'] == 1


def test_generations_and_jobs_by_state_and_how_long_the_oldest_has_waited(
    figures: Figures, workspace: Workspace, model: ServedModel
) -> None:
    now = timezone.now()
    for state, age in (("queued", 10), ("queued", 60), ("running", 600), ("complete", 6000)):
        made = Generation.objects.create(
            workspace=workspace, model=model, seed=1, deadline=now, sent_at=now, state=state
        )
        Generation.objects.filter(pk=made.pk).update(created_at=now - timedelta(seconds=age))
    for state in ("queued", "succeeded", "succeeded"):
        Job.objects.create(
            workspace=workspace, name="job", task="chat", data_label="", spec={}, data_hash="", base=model, state=state,
            sent_at=now,
        )  # fmt: skip
    found = figures()
    assert found['flywheel_generations{state="queued"}'] == 2
    assert found['flywheel_generations{state="running"}'] == 1
    assert 60 <= found["flywheel_generations_oldest_seconds"] < 70
    assert found['flywheel_jobs{state="succeeded"}'] == 2
    assert found['flywheel_jobs{state="queued"}'] == 1
    assert found['flywheel_jobs{state="failed"}'] == 0
