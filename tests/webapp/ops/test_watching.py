"""Watching a whole site: one scrape shows all of its processes, and one id leads from a request to its worker's log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chat_client import chat_page, generation_row
from tests.live_site import fetch
from tests.services import Service, Site, wait_until
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import User
from webapp.core import snapshots
from webapp.ops import broker, processes

pytestmark = pytest.mark.faults


@pytest.fixture
def site(live_site: Site) -> Site:
    return live_site


@pytest.fixture(scope="module")
def second(_session_site: Site) -> Iterator[str]:
    """The address of another web process of the same site."""
    site, port = _session_site, broker.free_port()
    process = processes.web(host="127.0.0.1", port=port)
    service = Service("web2", process.command, site.environment, site.logs / "web2.log").start()
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(address), "the second web process", every=0.1)
        yield address
    finally:
        service.stop()


@pytest.fixture
def key(site: Site) -> str:
    with site.rows():
        alice = User.objects.get(email="alice@example.org")
        workspace = alice.workspaces.get()
        return create_key(user=alice, workspace=workspace, name="script", scopes=["chat"])[1]


def _answers(address: str) -> bool:
    try:
        return fetch(f"{address}/healthz", 2).is_success
    except httpx.TransportError:
        return False


def scraped(address: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Samples by name and labels."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(fetch(f"{address}/metrics", 10).text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def processes_at(address: str) -> list[tuple[str, int]]:
    """Kind and pid of each process that a web process tells of, but for those that only some tests start."""
    up = [dict(labels) for labels in scraped(address)["flywheel_process_up"]]
    told = sorted((one["kind"], int(one["process"].rpartition("-")[2])) for one in up)
    return [(kind, pid) for kind, pid in told if kind not in ("data", "training")]


def ask(address: str, key: str, content: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{address}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}", **headers},
        json={"model": "scripted", "messages": [{"role": "user", "content": content}]},
        timeout=30,
    )


def lines_about(service: Service, request_id: str) -> dict[str, dict[str, Any]]:
    """A process's log lines of one request, by event."""
    lines = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    return {line["event"]: line for line in lines if line.get("request_id") == request_id}


def worker_lines(site: Site, request_id: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for worker in site.inference:
        found |= lines_about(worker, request_id)
    return found


def test_any_web_process_tells_of_all_processes(site: Site, second: str, key: str) -> None:
    def whole(address: str) -> bool:
        """All of them, and none that has gone."""
        kinds = [kind for kind, _ in processes_at(address)]
        return kinds == ["beat", "inference", "web", "web", "worker"]

    wait_until(lambda: whole(site.base_url) and whole(second), "the figures of all processes", every=0.2)
    assert ask(site.base_url, key, "tokens=20").is_success

    def told(name: str) -> float:
        return sum(scraped(second).get(name, {}).values())

    wait_until(lambda: told("flywheel_batch_size_count") >= 20, "the worker's steps", every=0.2)
    first_tokens = "flywheel_time_to_first_token_seconds_count"
    wait_until(lambda: told(first_tokens) >= 1, "the first token", every=0.2)
    figures = scraped(second)
    tokens = figures["flywheel_tokens_total"]
    by_process = {dict(labels)["process"].split("@")[0] for labels in tokens}
    assert by_process == {"inference"}
    assert set(figures["flywheel_models_loaded"].values()) == {1.0}
    assert figures["flywheel_disk_free_bytes"]


def test_no_counter_goes_backwards_whichever_process_is_asked(site: Site, second: str) -> None:
    counted = 0.0
    for _ in range(6):
        for address in (site.base_url, second):
            assert fetch(f"{address}/healthz").is_success
        for address in (second, site.base_url):
            now = sum(scraped(address)["flywheel_http_requests_total"].values())
            assert now >= counted
            counted = now


def test_a_killed_process_vanishes_and_a_stopped_one_at_once(site: Site, second: str) -> None:
    def told_of(service: Service) -> bool:
        return ("inference", service.pid) in processes_at(second)

    stopped, killed = site.start_inference(), site.start_inference()
    wait_until(lambda: told_of(stopped) and told_of(killed), "the new workers' figures", every=0.2)
    stopped.stop()
    assert not told_of(stopped)
    killed.kill()
    with site.valkey.client() as client:
        (gone,) = [key for key in client.keys("fw:figures:*") if key.endswith(f"-{killed.pid}".encode())]
        assert 0 < client.ttl(gone) <= snapshots.EXPIRE_SECONDS
        client.expire(gone, 0)  # as time would
    assert not told_of(killed)


def test_a_clock_that_is_restarted_is_one_clock(site: Site) -> None:
    def clocks() -> list[int]:
        return [pid for kind, pid in processes_at(site.base_url) if kind == "beat"]

    old = site.beat.pid
    wait_until(lambda: old in clocks(), "the clock's figures", every=0.2)
    site.beat.stop()
    assert old not in clocks()
    site.beat.start()
    wait_until(lambda: site.beat.pid in clocks(), "the new clock's figures", every=0.2)


def test_a_request_of_a_program_is_found_in_the_logs_of_web_and_worker(site: Site, key: str) -> None:
    answer = ask(site.base_url, key, "tokens=5", **{"x-request-id": "order-4711"})
    assert answer.headers["x-request-id"] == "order-4711"
    said = wait_until(
        lambda: (found := worker_lines(site, "order-4711")) and "generation_ended" in found and found,
        "the end in the worker's log",
    )
    assert set(said) == {"generation_claimed", "generation_admitted", "generation_ended"}
    generation = said["generation_ended"]["generation"]
    assert {line["generation"] for line in said.values()} == {generation}
    web = lines_about(site.web, "order-4711")
    assert web["generations_queued"]["generations"] == [generation]
    assert web["request_finished"]["code"] == 200


def test_an_id_nobody_chose_is_the_servers(site: Site, key: str) -> None:
    answer = ask(site.base_url, key, "tokens=2", **{"x-request-id": "not an id"})
    request_id = answer.headers["x-request-id"]
    assert request_id.startswith("req_")
    wait_until(lambda: "generation_ended" in worker_lines(site, request_id), "the end in the worker's log")


async def test_a_message_of_a_page_is_found_in_the_logs_of_web_and_worker(site: Site) -> None:
    async with chat_page(site, site.log_in()) as page:
        reply = await page.say("Hello tokens=5")
        shown = await page.ends(reply)
        row = await generation_row(site, shown.generation)
    connection, _, number = row.request_id.rpartition(".")
    assert connection.startswith("req_")
    assert int(number) >= 1
    assert lines_about(site.web, row.request_id)["generations_queued"]["generations"] == [str(row.id)]
    said = wait_until(
        lambda: (found := worker_lines(site, row.request_id)) and "generation_ended" in found and found,
        "the end in the worker's log",
    )
    assert said["generation_claimed"]["attempt"] == 1
    assert said["generation_ended"]["state"] == "complete"


def test_a_failed_reply_is_counted_by_its_code(site: Site, key: str) -> None:
    answer = ask(site.base_url, key, "fail_after=2", **{"x-request-id": "to-fail"})
    assert answer.status_code == 500
    ended = wait_until(
        lambda: worker_lines(site, "to-fail").get("generation_ended"), "the end in the worker's log"
    )
    assert (ended["state"], ended["error_code"]) == ("failed", "engine_error")

    def codes() -> set[tuple[str, str]]:
        counted = scraped(site.base_url).get("flywheel_errors_total", {})
        return {(dict(labels)["kind"], dict(labels)["code"]) for labels in counted}

    wait_until(lambda: ("generation", "engine_error") in codes(), "the worker's figures", every=0.2)
    assert ("http", "500") in codes()
