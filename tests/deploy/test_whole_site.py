"""All of deploy/ at once: a person's way through a site of two web processes and two inference workers behind the TLS
proxy, with the commands and the environment of compose.yaml."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import openai
import pytest

from inference.models import ServedModel
from tests.chat_client import chat_page, generation_row
from tests.deploy.deployed_site import DeployedSite
from tests.scripted_engine import text_of
from tests.services import wait_until
from tests.training.trainer.conftest import tiny_base  # noqa: F401
from tests.webapp.api.data_work import ORDERS
from tests.webapp.api.live_clients import key_of, openai_client
from webapp.accounts.models import AuditEvent
from webapp.ops.broker import free_port

# Sixteen processes are started, most of which import Django, and one imports torch.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
TOKENS = 150


@pytest.fixture
def site(deployed_site: DeployedSite) -> DeployedSite:
    return deployed_site


@pytest.fixture
def client(site: DeployedSite) -> Iterator[openai.OpenAI]:
    with openai_client(site, key_of(site)) as client:
        yield client


def web_process_with_a_socket(site: DeployedSite) -> str:
    """The one that serves the only page that is open."""

    def holder() -> str | None:
        return next((name for name in site.web_ports if site.connections(name)), None)

    return str(wait_until(holder, "a web process with a socket"))


def test_a_person_signs_up_and_is_known_by_the_address_the_proxy_saw(site: DeployedSite) -> None:
    with site.client() as browser:
        browser.headers["X-Forwarded-For"] = "192.0.2.7"
        form = {"email": "bob@example.org", "password1": "correct horse 2", "name": "Bob"}
        assert site.submit(browser, "/accounts/signup/", **form).status_code == 200
        assert browser.get("/settings/").url.path == "/settings/"
        cookie = next(each for each in browser.cookies.jar if each.name == site.session_cookie)
        assert cookie.secure
    with site.rows():
        assert {event.ip for event in AuditEvent.objects.exclude(ip=None)} == {"127.0.0.1"}


def test_whoever_comes_without_tls_is_led_to_it(site: DeployedSite) -> None:
    plain = f"http://localhost:{site.http_port}"
    answer = httpx.get(f"{plain}/accounts/login/?next=/", headers={"Host": "elsewhere.example"})
    assert (answer.status_code, answer.headers["location"]) == (
        301,
        f"{site.base_url}/accounts/login/?next=/",
    )
    with site.client() as browser:
        headers = browser.get("/accounts/login/").headers
        assert "max-age" in headers["strict-transport-security"]


async def test_a_reply_goes_on_at_the_other_web_process_byte_for_byte(site: DeployedSite) -> None:
    async with chat_page(site, await asyncio.to_thread(site.log_in)) as page:
        reply = await page.say(f"Hello tokens={TOKENS} rate=30")
        await page.text_arrives(reply, blocks=1)
        first = await asyncio.to_thread(web_process_with_a_socket, site)
        try:
            assert await asyncio.to_thread(site.stop, first) == -SIGTERM
            shown = await page.ends(reply)
        finally:
            await asyncio.to_thread(site.start_service, first)
        row = await generation_row(site, shown.generation)
        assert (page.reconnects, row.state, row.attempt) == (1, "complete", 1)
        assert row.text == text_of(row.seed, TOKENS)
        assert shown.shows(row.text)
    await asyncio.to_thread(site.wait_ready)


def test_an_event_stream_comes_as_it_is_written_and_goes_on_at_any_web_process(
    site: DeployedSite, client: openai.OpenAI
) -> None:
    with client.responses.create(model="scripted", input="tokens=800 rate=40", stream=True) as stream:
        seen: list[Any] = []
        for event in stream:
            seen.append(event)
            if sum(each.type == "response.output_text.delta" for each in seen) == 4:
                break
    # It would take twenty seconds. A proxy that gathered it would have given us nothing before its end.
    response = seen[0].response.id
    assert client.responses.retrieve(response).status == "in_progress"
    text = client.responses.cancel(response).output_text
    for port in site.web_ports.values():
        one_of_two = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=client.api_key)
        after = seen[-1].sequence_number
        rest: list[Any] = [*one_of_two.responses.retrieve(response, stream=True, starting_after=after)]
        deltas = [event.delta for event in [*seen, *rest] if event.type == "response.output_text.delta"]
        assert "".join(deltas) == text


def test_the_site_itself_refuses_what_is_too_long_and_who_may_not_send_files(site: DeployedSite) -> None:
    with site.client() as http:
        # Over the site's limit, and below the proxy's.
        long = http.post("/v1/responses", content=b"x" * (4 * 2**20 + 1000))
        assert (long.status_code, long.json()["error"]["code"]) == (413, "request_too_large")
        # No file is kept at the proxy first, whoever sends it.
        headers = {"Authorization": "Bearer fw-wrong"}
        wrong = http.post("/v1/files", content=b"x" * (6 * 2**20), headers=headers)
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")


def test_what_is_uploaded_trains_a_model_that_is_offered_afterwards(
    site: DeployedSite,
    client: openai.OpenAI,
    tiny_base: Path,  # noqa: F811
) -> None:
    site.manage("models", "add", str(tiny_base), "--name", "tiny")
    with site.rows():
        # What is uploaded is counted with the default model's vocabulary, and a scripted one has none.
        ServedModel.objects.filter(name="scripted").update(path=str(tiny_base))
    file = client.files.create(file=("orders.jsonl", ORDERS), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        hyperparameters={"n_epochs": 1, "batch_size": 8},
        extra_body={"flywheel": {"max_length": 64, "lora": {"r": 4}}},
    )

    def ended() -> Any:
        found = client.fine_tuning.jobs.retrieve(job.id)
        return found if found.status in ("succeeded", "failed", "cancelled") else None

    done = wait_until(ended, "the job to end", 300, every=0.2)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model in {model.id for model in client.models.list()}


@pytest.mark.parametrize("name", ["inference-1", "training", "worker", "data", "beat"])
def test_a_worker_that_is_well_passes_its_health_check_and_one_that_is_deaf_does_not(
    site: DeployedSite, name: str
) -> None:
    wait_until(lambda: site.health(name) == 0, f"{name} to be well", 30)
    service = site.service(name)
    service.freeze()
    try:
        # Two minutes later.
        os.utime(service.environment["FLYWHEEL_PULSE"], (time.time() - 120,) * 2)
        assert site.health(name) != 0
    finally:
        service.thaw()
    wait_until(lambda: site.health(name) == 0, f"{name} to be well again", 30)


def test_a_web_process_passes_its_health_check_while_it_answers(site: DeployedSite) -> None:
    assert site.health("web-a") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(site.web_ports, "web-a", free_port())
        assert site.health("web-a") != 0


def test_nobody_but_the_proxy_and_who_bears_the_token_sees_figures(site: DeployedSite) -> None:
    with site.client() as http:
        assert http.get("/metrics").status_code == 401


def test_nginx_finds_nothing_wrong_with_the_proxys_configuration(site: DeployedSite) -> None:
    command = [*site.service("proxy").command, "-t"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "[warn]" in line]
    # Newer versions know another way to say http2, which those of Debian 12 do not.
    assert all("http2" in line for line in warnings), done.stderr
