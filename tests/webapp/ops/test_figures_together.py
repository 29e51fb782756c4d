"""Figures of several processes in one scrape: what does not fit together, what is too much, what has gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from django.test import Client
from prometheus_client import Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from tests.services import Valkey
from webapp.core import metrics, recent_errors, snapshots
from webapp.core.snapshots import Family, Reporter, Snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(snapshots, "_reporter", None)
    recent_errors._pending.clear()
    yield
    recent_errors._pending.clear()


def store(broker: Valkey, name: str, value: bytes) -> None:
    with broker.client() as client:
        client.set(f"fw:figures:{name}", value)
        client.sadd("fw:figures", name)


def other(*families: Family, name: str = "inference@gpu1-7") -> tuple[str, bytes]:
    return name, snapshots._encode(Snapshot(name, "inference", "gpu1", 7, 1.0, list(families)))


def scrape(client: Client) -> dict[str, dict[str, float]]:
    """Values by name and process."""
    text = client.get("/metrics", headers={"Host": "localhost"}).content.decode()
    return {
        sample.name: {s.labels.get("process", ""): s.value for s in family.samples if s.name == sample.name}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_processs_figures_have_its_name(client: Client, broker: Valkey) -> None:
    store(broker, *other(Family("flywheel_sockets", "gauge", "Open.", [("flywheel_sockets", {}, 5.0)])))
    own = snapshots.reporter().process
    assert scrape(client)["flywheel_sockets"] == {own: 0.0, "inference@gpu1-7": 5.0}
    assert scrape(client)["flywheel_process_up"] == {own: 1.0, "inference@gpu1-7": 1.0}


def test_a_process_of_another_version_spoils_nothing(client: Client, broker: Valkey) -> None:
    """As during an upgrade: a snapshot of another make, and a metric that is of another type there."""
    store(broker, "worker@old-1", b"\x93not a snapshot")
    store(broker, *other(Family("flywheel_sockets", "counter", "", [("flywheel_sockets_total", {}, 5.0)])))
    found = scrape(client)
    assert set(found["flywheel_process_up"]) == {snapshots.reporter().process, "inference@gpu1-7"}
    assert found["flywheel_sockets"] == {snapshots.reporter().process: 0.0}


def test_who_has_gone_is_forgotten(client: Client, broker: Valkey) -> None:
    store(broker, *other())
    with broker.client() as server:
        server.delete("fw:figures:inference@gpu1-7")
        assert "inference@gpu1-7" not in scrape(client)["flywheel_process_up"]
        assert b"inference@gpu1-7" not in server.smembers("fw:figures")


def test_what_stops_vanishes_at_once(broker: Valkey) -> None:
    reporter = Reporter("worker")
    reporter.publish()
    with broker.client() as server:
        assert [one.kind for one in snapshots.read_all(server)] == ["worker"]
        reporter.stop()
        assert snapshots.read_all(server) == []


def test_without_a_broker_a_process_tells_of_itself(client: Client, broker: Valkey) -> None:
    broker.kill()
    own = snapshots.reporter().process
    assert scrape(client)["flywheel_process_up"] == {own: 1.0}


def test_what_the_broker_is_not_told_of_errors_is_told_later(broker: Valkey) -> None:
    reporter = Reporter("worker")
    logging.getLogger("site").error("the disk %s", "broke\n")
    broker.kill()
    assert [one.process for one in reporter.everybody()] == [reporter.process]
    broker.start()
    reporter.publish()
    reporter.publish()
    with broker.client() as server:
        (error,) = recent_errors.read(server)
    assert (error.process, error.event) == (reporter.process, "the disk broke\\n")


def test_one_process_cannot_make_every_scrape_endless(
    client: Client, broker: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_SAMPLES", 50)
    many = Gauge("flywheel_many", "Too many.", ["n"], registry=metrics.registry)
    try:
        for number in range(100):
            many.labels(str(number)).set(1)
        made = snapshots.reporter().snapshot()
    finally:
        metrics.registry.unregister(many)
    assert sum(len(family.samples) for family in made.families) == 50


def test_a_figure_that_cannot_be_had_is_left_out_and_the_others_are_not(
    client: Client, broker: Valkey
) -> None:
    def broken() -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("flywheel_half", "Half.", value=1)
        raise OSError("the disk is gone")

    guarded = metrics._Guarded(broken, lambda: 0.0)
    metrics.registry.register(guarded)
    try:
        found = scrape(client)
    finally:
        metrics.registry.unregister(guarded)
    assert "flywheel_half" not in found
    assert "process_resident_memory_bytes" in found


def test_values_are_summed_by_the_labels_that_are_asked_for() -> None:
    family = CounterMetricFamily("flywheel_tokens", "", labels=["kind"])
    family.add_metric(["prompt"], 2)
    family.add_metric(["completion"], 3)
    samples = [(s.name, s.labels, s.value) for s in family.samples]
    made = Snapshot("p", "web", "h", 1, 0, [Family("flywheel_tokens", "counter", "", samples)])
    assert made.value("flywheel_tokens_total") == 5
    assert made.value("flywheel_tokens_total", kind="prompt") == 2
    assert made.value("flywheel_none") == 0
