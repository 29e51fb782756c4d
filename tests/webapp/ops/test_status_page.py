"""The operators' page: who may see it, what it tells, and what it says needs attention."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from inference.models import Generation, ServedModel, Worker
from inference.serving import NO_MODEL
from tests.services import Valkey
from tests.webapp.ops.other_processes import publish
from training.models import Job
from webapp.accounts.models import User, Workspace
from webapp.core import snapshots
from webapp.ops import figures, schema, status_words

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's process is one that has just begun."""
    monkeypatch.setattr(snapshots, "_reporter", None)
    schema._current.clear()
    yield
    schema._current.clear()


@pytest.fixture
def operator(alice: User) -> Client:
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    client = Client()
    client.force_login(alice)
    return client


def shown(client: Client) -> str:
    answer = client.get("/status/")
    assert answer.status_code == 200
    return answer.content.decode()


def worker(**fields: object) -> Worker:
    given = {"hostname": "gpu1", "pid": 7, "state": "ready"} | fields
    return Worker.objects.create(lease_expires_at=timezone.now() + timedelta(seconds=10), **given)


def test_only_operators_have_it(operator: Client, bob: User, alice: User, workspace: Workspace) -> None:
    member, nobody = Client(), Client()
    member.force_login(bob)
    for path in ("/status/", "/status/now/"):
        assert operator.get(path).status_code == 200
        assert member.get(path).status_code == 404
        assert nobody.get(path).headers["Location"].startswith("/accounts/login/")
    assert 'href="/status/"' in operator.get("/usage/").content.decode()
    assert 'href="/status/"' not in member.get("/usage/").content.decode()


def test_it_tells_of_every_process_and_of_what_is_missing(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("worker", "data", "beat", "training"):
        publish(kind, monkeypatch, pid=ord(kind[0]))
    text = shown(operator)
    assert "No process of the kind “Inference” is running: nothing is answered." in text
    assert "“Clock”" not in text
    worker()
    text = shown(operator)
    assert "No process" not in text
    assert "gpu1" in text
    assert "lease for" in text


def test_a_process_of_several_kinds_is_missed_as_none_of_them(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("training+data+worker", monkeypatch)
    text = shown(operator)
    assert "Training + Data + Small tasks" in text
    assert "“Data” is running" not in text


def test_two_clocks_are_told_with_where_they_run(
    operator: Client, broker: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("beat", monkeypatch, host="one", pid=5)
    assert "More than one clock" not in shown(operator)
    publish("worker+beat", monkeypatch, host="two", pid=6)
    assert "More than one clock runs, so small tasks are sent more than once: one 5, two 6." in shown(
        operator
    )


def test_a_worker_without_its_model_is_a_problem_with_its_reason(operator: Client) -> None:
    worker(state="broken", error="model.gguf: is <truncated>.")
    text = shown(operator)
    assert "cannot load its model: model.gguf: is &lt;truncated&gt;." in text


def test_a_worker_that_has_not_seen_the_first_model_yet_is_said_to_load_it(operator: Client) -> None:
    """As when status is asked right after `models pull` on a new site."""
    worker(state="broken", error=NO_MODEL)
    assert "cannot load its model" in shown(operator)
    ServedModel.objects.create(
        name="small",
        path="small",
        digest="d",
        architecture="a",
        context_length=1,
        parameters=1,
        size_bytes=1,
        is_default=True,
    )
    text = shown(operator)
    assert "loading its model" in text
    assert "cannot load its model" not in text


def test_a_model_that_no_worker_was_told_to_serve_is_said(operator: Client) -> None:
    small, large = (
        ServedModel.objects.create(
            name=name, path=name, digest=name, architecture="a", context_length=1, parameters=1, size_bytes=1
        )
        for name in ("small", "large")
    )
    assert "No worker serves" not in shown(operator)  # there is none: that is said
    worker(serves=[small.pk])
    assert "No worker serves large." in shown(operator)
    ServedModel.objects.filter(pk=large.pk).update(is_default=True)
    assert "No worker serves large, the default model." in shown(operator)
    worker(serves=None, pid=8)
    assert "No worker serves" not in shown(operator)


def test_what_waits_too_long_is_said(operator: Client, broker: Valkey, workspace: Workspace) -> None:
    model = ServedModel.objects.create(
        name="m", path="m", digest="d", architecture="a", context_length=1, parameters=1, size_bytes=2_000_000
    )
    now = timezone.now()
    generation = Generation.objects.create(
        workspace=workspace, model=model, seed=1, deadline=now, sent_at=now
    )
    Generation.objects.filter(pk=generation.pk).update(created_at=now - timedelta(minutes=3))
    task = {"headers": {"sent_at": time.time() - 400}, "body": ""}
    with broker.client() as redis:
        redis.lpush("celery:default", json.dumps(task), "not ours")
    text = shown(operator)
    assert "The oldest reply that waits has waited for 3 minutes." in text
    assert "The oldest task in the queue “Small tasks” has waited for 7 minutes." in text
    assert "2.0 MB" in text or "2 MB" in text
    assert "by no worker" in text


def test_the_last_backup_is_told_and_missed(
    operator: Client, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FLYWHEEL_HOME = tmp_path
    assert "There is no backup yet." in shown(operator)
    (tmp_path / "run").mkdir()
    word = tmp_path / "run" / "last_backup.json"
    for age, missed in ((timedelta(hours=1), False), (timedelta(hours=27), True)):
        finished_at = (timezone.now() - age).isoformat()
        word.write_text(json.dumps({"finished_at": finished_at, "path": "/b", "bytes": 5}))
        assert ("The last backup is 1 day 3 hours old." in shown(operator)) == missed
    word.write_text("{half")
    assert "There is no backup yet." in shown(operator)


def test_a_full_disk_is_a_problem_before_it_is_one(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = figures.shutil._ntuple_diskusage  # type: ignore[attr-defined]
    monkeypatch.setattr(figures.shutil, "disk_usage", lambda path: usage(100 * 10**9, 0, 150 * 10**6))
    assert "150 MB are free on" in shown(operator)


def test_a_broker_that_may_lose_tasks_is_a_problem(operator: Client, broker: Valkey) -> None:
    with broker.client() as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert "its maxmemory-policy is allkeys-lru" in shown(operator)
        finally:
            redis.config_set("maxmemory-policy", "noeviction")


def test_without_a_broker_it_says_so_and_tells_the_rest(operator: Client, broker: Valkey) -> None:
    worker()
    broker.kill()
    text = shown(operator)
    assert "The broker does not answer" in text
    assert "gpu1" in text
    assert "No process" not in text


def test_a_schema_that_is_not_the_codes_is_said(operator: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('chat', '9999_later', %s)",
            [timezone.now()],
        )
    text = shown(operator)
    assert "newer than this version of the site: it has chat.9999_later" in text


def test_errors_are_shown_with_the_request_they_were_of(operator: Client) -> None:
    from webapp.core.request_ids import on_behalf_of

    with on_behalf_of("req-17"):
        try:
            raise ValueError("secret")
        except ValueError:
            logging.getLogger("site").exception("the <thing> failed")
    text = shown(operator)
    assert "the &lt;thing&gt; failed (ValueError)" in text
    assert "<code>req-17</code>" in text
    assert "secret" not in text


def test_jobs_are_counted_by_state(operator: Client, workspace: Workspace) -> None:
    for state in ("queued", "queued", "failed"):
        Job.objects.create(workspace=workspace, name="j", task="chat", data_label="d", spec={}, state=state,
                           sent_at=timezone.now())  # fmt: skip
    text = shown(operator)
    assert "<dt>Queued</dt><dd>2</dd>" in text
    assert "<dt>Failed</dt><dd>1</dd>" in text


def test_it_keeps_itself_current_unless_it_is_held_still(operator: Client) -> None:
    assert "data-busy" in shown(operator)
    assert "data-busy" in operator.get("/status/now/").content.decode()
    assert "data-busy" not in operator.get("/status/?still").content.decode()


def test_it_speaks_the_readers_language(operator: Client) -> None:
    operator.cookies["django_language"] = "zh-hans"
    text = shown(operator)
    assert "<h1>状态</h1>" in text
    assert "还没有备份" in text


def test_a_terminal_is_told_the_same(operator: Client, broker: Valkey) -> None:
    worker()
    said = StringIO()
    with pytest.raises(SystemExit):
        call_command("status", stdout=said)
    text = said.getvalue()
    assert "problem  No process of the kind “Clock” is running" in text
    assert "problem  No process of the kind “Web” is running: nobody reaches the site." in text
    assert "inference  gpu1 7  ready" in text
    # It is none of the site's processes, and nobody takes it for one later.
    assert "\n  web " not in text
    assert snapshots.of_the_site() == []
    assert "last backup: never" in text


def test_a_site_that_is_stopped_is_one_finding(broker: Valkey) -> None:
    said = StringIO()
    with pytest.raises(SystemExit):
        call_command("status", stdout=said)
    assert "problem  No process of the site is running: nothing is answered." in said.getvalue()
    assert "No process of the kind" not in said.getvalue()


def test_every_finding_has_an_advice(operator: Client) -> None:
    from webapp.ops.status import read_status

    found = status_words.findings(read_status())
    assert found
    assert all(finding.sentence and finding.advice for finding in found)
    assert [f.is_problem for f in found] == sorted((f.is_problem for f in found), reverse=True)


def test_the_page_of_an_error_names_the_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.raise_request_exception = False
    monkeypatch.setattr("webapp.ops.status_views.read_status", lambda: 1 / 0)
    operator = User.objects.create(email="o@example.org", is_staff=True)
    workspace = Workspace.objects.create(name="W")
    workspace.memberships.create(user=operator)
    client.force_login(operator)
    answer = client.get("/status/", headers={"x-request-id": "from-the-proxy"})
    assert answer.status_code == 500
    assert "<code>from-the-proxy</code>" in answer.content.decode()
    assert answer.headers["x-request-id"] == "from-the-proxy"
