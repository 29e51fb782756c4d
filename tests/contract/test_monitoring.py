"""deploy/monitoring: every metric, label and value that rules and dashboard ask for is one that a live site gives out,
and docs/monitoring.md names all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.chat_client import chat_page
from tests.live_site import fetch
from tests.services import Site, wait_until

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
NAME = re.compile(r"\b(?:flywheel|process)_[a-z_]+(?![\w]*\()")
SELECTOR = re.compile(r"\b((?:flywheel|process)_[a-z_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
# What Prometheus adds itself.
TARGET_LABELS = {"job", "instance"}
# Values that a young site has not counted yet, and where they come from.
LATER = {
    "kind": {"http", "generation", "job", "log"},
    "purpose": {"reply", "title", "api", "widget"},
    "code": {"internal", "worker_lost", "disk", "oom"},  # of fine-tunes: training.trainer.failures
}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"]


@pytest.fixture
async def scraped(live_site: Site) -> dict[str, Metric]:
    """The families of a site that has answered somebody, by the names of their samples."""
    async with chat_page(live_site, live_site.log_in()) as page:
        await page.ends(await page.say("Hello tokens=3"))

    def told() -> str | None:
        text = fetch(f"{live_site.base_url}/metrics").text
        return text if "flywheel_time_to_first_token_seconds_count{" in text else None

    text = wait_until(told, "the worker's figures", every=0.2)
    found = {}
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for suffix in suffixes:
            found[family.name + suffix] = family
    return found


@pytest.mark.faults
def test_what_rules_dashboard_and_docs_name_is_what_a_live_site_gives_out(scraped: dict[str, Metric]) -> None:
    named = {name for expression in expressions() for name in NAME.findall(expression)}
    assert named
    assert named - set(scraped) == set()
    documented = set(re.findall(r"`(flywheel_\w+)`", (ROOT / "docs" / "monitoring.md").read_text()))
    given_out = {name.removesuffix("_bucket") for name in scraped if not name.endswith(("_sum", "_count"))}
    assert documented == {name for name in given_out if name.startswith("flywheel_")}
    for expression in expressions():
        for name, matchers in SELECTOR.findall(expression):
            for label, how, wanted in MATCHER.findall(matchers):
                if label in TARGET_LABELS or not scraped[name].samples:
                    continue
                values = {s.labels[label] for s in scraped[name].samples if s.name == name}
                values |= LATER.get(label, set())
                pattern = wanted if how == "=~" else re.escape(wanted)
                assert any(re.fullmatch(pattern, value) for value in values), (name, label, wanted)


def test_every_alert_says_what_to_do_and_how_bad_it_is() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert len(rule["annotations"]["summary"].split(". ")) >= 2, "what is wrong, and what to do"


def test_every_panel_asks_something_and_none_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["targets"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_scrape_configuration_names_files_that_are_there() -> None:
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert all((FOLDER / name).is_file() for name in configuration["rule_files"])
    (job,) = configuration["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("flywheel", "/metrics")
