"""/healthz, /readyz and /metrics: what machines ask, and who may."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test import Client
from django.utils import timezone

from inference.models import Worker
from tests.services import Valkey
from webapp.core import metrics, snapshots
from webapp.ops import health, schema


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(health, "CACHE_SECONDS", -1.0)
    schema._current.clear()
    yield
    schema._current.clear()


def worker(state: str = "ready", *, lease: float = 10, error: str = "") -> Worker:
    expires = timezone.now() + timedelta(seconds=lease)
    return Worker.objects.create(hostname="here", pid=1, state=state, error=error, lease_expires_at=expires)


def readyz(client: Client) -> tuple[int, dict[str, Any]]:
    response = client.get("/readyz", headers={"Host": "localhost"})
    return response.status_code, response.json()["checks"]


def test_alive_asks_nobody(client: Client, settings: LazySettings) -> None:
    # Without the `db` fixture any look at the database fails the test.
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_come_by_address_whatever_the_hosts_setting_says(
    client: Client, settings: LazySettings, db: None, path: str
) -> None:
    settings.ALLOWED_HOSTS = ["chat.example.org"]
    assert client.get(path, headers={"Host": "10.1.2.3:8000"}).status_code in (200, 503)
    assert client.get("/accounts/login/", headers={"Host": "10.1.2.3:8000"}).status_code == 400


def test_not_ready_on_the_schema_of_a_newer_version_and_alive_all_the_same(client: Client, db: None) -> None:
    worker()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('chat', '0999_later', '2030-01-01')"
        )
    status, checks = readyz(client)
    assert (status, checks["migrations"]["code"]) == (503, "schema_newer")
    assert "chat.0999_later" in checks["migrations"]["message"]
    assert client.get("/healthz").status_code == 200
    assert client.get("/setup/").status_code == 200


def test_ready_with_a_worker_that_holds_its_lease(client: Client, db: None) -> None:
    worker()
    status, checks = readyz(client)
    assert status == 200
    assert set(checks) == {"database", "migrations", "worker", "broker"}
    assert all(check["ok"] for check in checks.values())


@pytest.mark.parametrize(
    ("state", "lease", "code"),
    [("ready", -1, "no_worker"), ("loading", 10, "model_loading"), ("stopping", 10, "no_worker")],
)
def test_a_worker_that_cannot_answer_makes_the_site_unready(
    client: Client, db: None, state: str, lease: float, code: str
) -> None:
    worker(state, lease=lease)
    status, checks = readyz(client)
    assert status == 503
    assert checks["worker"]["code"] == code
    assert checks["worker"]["message"]


def test_a_broken_model_is_named(client: Client, db: None) -> None:
    worker("broken", error="model.gguf: is truncated.")
    assert readyz(client)[1]["worker"] == {
        "ok": False,
        "code": "model_broken",
        "message": "model.gguf: is truncated.",
    }


def test_a_broker_that_is_down_is_named(client: Client, db: None, broker: Valkey) -> None:
    worker()
    broker.kill()
    status, checks = readyz(client)
    assert status == 503
    assert [name for name, check in checks.items() if not check["ok"]] == ["broker"]


def test_a_missing_migration_is_named_with_what_to_do(client: Client, db: None) -> None:
    worker()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'chat'")
    status, checks = readyz(client)
    assert status == 503
    assert "migrate_locked" in checks["migrations"]["message"]
    assert "chat.0001_initial" in checks["migrations"]["message"]


def test_a_readiness_check_is_not_repeated_within_a_second(
    client: Client, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CACHE_SECONDS", 60.0)
    monkeypatch.setattr(health, "_cached", None)
    asked = []
    monkeypatch.setattr(health, "broker", lambda: asked.append(1) or health.Check("broker", True))
    for _ in range(5):
        client.get("/readyz")
    assert len(asked) == 1
    monkeypatch.setattr(health, "_cached", None)


def test_figures_say_what_the_site_does(
    client: Client, db: None, broker: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CACHE_SECONDS", -1.0)
    worker()
    with broker.client() as redis:
        redis.rpush("celery:generate", "a", "b", "c")
    client.get("/healthz")
    text = client.get("/metrics", headers={"Host": "localhost"}).content.decode()
    assert 'flywheel_queue_depth{queue="generate"} 3.0' in text
    assert 'flywheel_workers{state="ready"} 1.0' in text
    assert 'flywheel_generations{state="running"} 0.0' in text
    own = snapshots.reporter().process
    assert f'flywheel_http_requests_total{{method="GET",process="{own}",status="200"}}' in text
    assert "process_resident_memory_bytes" in text


def test_figures_of_a_part_that_is_down_are_left_out(
    client: Client, db: None, broker: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CACHE_SECONDS", -1.0)
    broker.kill()
    response = client.get("/metrics", headers={"Host": "localhost"})
    assert response.status_code == 200
    assert b"flywheel_workers" in response.content
    assert b"flywheel_queue_depth" not in response.content


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, 200),
        ({"REMOTE_ADDR": "::1"}, 200),
        ({"REMOTE_ADDR": "10.0.0.5"}, 401),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "8.8.8.8"}, 401),
        ({"REMOTE_ADDR": ""}, 401),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8000"}, 200),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "[::1]:8000"}, 200),
        # Made to lead here by whoever owns the name, or by a proxy that does not say whom it stands for.
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "rebound.example.org:8000"}, 401),
    ],
)
def test_only_this_machine_scrapes_without_a_token(
    client: Client, db: None, environ: dict[str, str], status: int
) -> None:
    assert client.get("/metrics", **({"HTTP_HOST": "127.0.0.1"} | environ)).status_code == status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "environ",
    [{"HTTP_X_FORWARDED_FOR": "8.8.8.8"}, {"HTTP_HOST": "chat.example.org"}, {"REMOTE_ADDR": "8.8.8.8"}],
)
def test_what_is_wrong_inside_is_told_on_this_machine_and_not_to_visitors(
    client: Client, db: None, environ: dict[str, str]
) -> None:
    worker("broken", error="/srv/models/secret-project has no weights")
    answer = client.get("/readyz", **environ)  # type: ignore[arg-type]
    assert answer.status_code == 503
    assert answer.json()["checks"]["worker"] == {"ok": False, "code": "model_broken", "message": ""}
    assert readyz(client)[1]["worker"]["message"] == "/srv/models/secret-project has no weights"


def test_whoever_may_not_scrape_is_told_what_is_missing(
    client: Client, db: None, settings: LazySettings
) -> None:
    def said() -> str:
        return client.get("/metrics", headers={"X-Forwarded-For": "8.8.8.8"}).content.decode()

    assert said() == "Set METRICS_TOKEN and send it as a bearer token.\n"
    settings.METRICS_TOKEN = "s3cret"
    assert said() == "Send METRICS_TOKEN as a bearer token.\n"


@pytest.mark.parametrize(("given", "status"), [("Bearer s3cret", 200), ("Bearer other", 401), ("", 401)])
def test_with_a_token_everybody_needs_it(
    client: Client, db: None, settings: LazySettings, given: str, status: int
) -> None:
    settings.METRICS_TOKEN = "s3cret"
    assert client.get("/metrics", headers={"Authorization": given}).status_code == status


def test_made_up_methods_make_no_time_series(client: Client) -> None:
    client.generic("BREW", "/healthz")
    assert b"BREW" not in snapshots.exposition()[0]
