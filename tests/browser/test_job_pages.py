"""The pages of fine-tunes in a real Chromium: begun without scripts, and seen to learn while rows change.

The server's end of the page's socket is the test's own, and sends what `training.consumers` would.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import Client
from playwright.sync_api import Browser, Page, Route, expect

from inference.models import ServedModel
from tests.browser.conftest import complaints_of
from tests.browser.stage import Server
from tests.training.job_pages.rows import RUNNING, classified, learn, make_base, make_job, make_version
from training import services
from training.job_page import parts
from training.judging import Tried, Verdict
from training.models import Job, Measurement
from webapp.accounts.models import User, Workspace

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
WIDE = "d => d.scrollWidth - d.clientWidth"
# What a person who hears the page, or uses the keyboard, stumbles over.
FAULTS = """() => [
  ...[...document.querySelectorAll('input:not([type=hidden]), select, textarea, progress, meter')]
    .filter(e => !e.closest('[aria-hidden]') && !e.hasAttribute('aria-hidden') && !e.labels?.length
      && !e.getAttribute('aria-label')).map(e => 'no label: ' + e.outerHTML),
  ...[...document.querySelectorAll('main a, main button')]
    .filter(e => !e.textContent.trim() && !e.getAttribute('aria-label')).map(e => 'no name: ' + e.outerHTML),
  ...[...document.querySelectorAll('[id]')].map(e => e.id)
    .filter((id, i, all) => all.indexOf(id) !== i).map(id => 'twice: ' + id),
  ...[...document.querySelectorAll('[aria-labelledby], [aria-describedby]')]
    .flatMap(e => (e.getAttribute('aria-labelledby') ?? e.getAttribute('aria-describedby')).split(' '))
    .filter(id => !document.getElementById(id)).map(id => 'leads nowhere: ' + id),
  ...[...document.querySelectorAll('main [tabindex]')].filter(e => e.tabIndex > 0).map(e => 'jumps: ' + e.outerHTML),
]"""


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def page(
    live_server: Any,
    browser: Browser,
    server: Server,
    alice: User,
    workspace: Workspace,
    settings: Any,
    tmp_path: Path,
) -> Iterator[Page]:
    """Alice; whatever her browser complains about fails the test."""
    settings.FLYWHEEL_HOME = tmp_path
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    context = browser.new_context(base_url=live_server.url, viewport={"width": 1200, "height": 900})
    context.add_cookies(cookies(alice, live_server.url))
    page = context.new_page()
    page.route_web_socket("**/ws/jobs/", server.connect)
    page.route_web_socket("**/ws/chat/", lambda route: None)
    complaints = complaints_of(page)
    yield page
    context.close()
    known = ("the server responded with a status of 400", "net::ERR_FAILED")
    assert [said for said in complaints if not said.endswith(known)] == []


def cookies(user: User, address: str) -> Any:
    client = Client()
    client.force_login(user)
    return [{"name": name, "value": cookie.value, "url": address} for name, cookie in client.cookies.items()]


@pytest.fixture
def job(page: Page, workspace: Workspace, alice: User) -> Job:
    dataset = services.create_dataset(user=alice, workspace=workspace, name="Support")
    return make_job(workspace, alice, make_base(), make_version(dataset))


def test_a_page_shows_it_learn_without_taking_anything_from_who_reads_it(
    page: Page, server: Server, job: Job
) -> None:
    def change(**fields: Any) -> None:
        Job.objects.filter(pk=job.pk).update(**fields)
        job.refresh_from_db()
        server.send(type="job", job=str(job.pk), html=parts(job))

    page.goto(f"/fine-tunes/{job.pk}/")
    expect(page.get_by_text("The curve begins with the first step.")).to_be_visible()
    while not server.commands("watch"):
        page.wait_for_timeout(10)
    assert server.commands("watch") == [{"type": "watch", "job": str(job.pk)}]
    page.get_by_role("button", name="Pause").focus()
    learn(job, 40, every=20)
    change(**RUNNING)
    expect(page.locator("#live")).to_have_text("support: training")
    curve = page.locator(".losses .serie-0 .line")
    expect(curve).to_be_visible()
    before = curve.get_attribute("d")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()

    page.get_by_text("The numbers").click()
    page.get_by_text("At earlier checkpoints").first.click()
    page.evaluate("document.getElementById('live').textContent = ''")
    Measurement.objects.create(job=job, kind="train", step=41, loss=0.5)
    Measurement.objects.create(job=job, kind="validation", step=41, loss=0.6)
    change(step=200)
    expect(page.get_by_text("training 50 %")).to_be_visible()
    after = curve.get_attribute("d")
    assert before
    assert after
    assert after.count(" ") > before.count(" ")
    expect(page.get_by_role("cell", name="0.6000")).to_be_visible()
    expect(page.get_by_text("At step 20:").first).to_be_visible()
    # That it is further is seen, and not read out every second.
    assert page.locator("#live").inner_text() == ""

    model = ServedModel.objects.create(
        name="ft", path="x", digest="1", architecture="llama", context_length=1, parameters=1, size_bytes=1,
        base=job.base, workspace=job.workspace,
    )  # fmt: skip
    page.get_by_role("button", name="Pause").focus()
    change(state="succeeded", model=model)
    expect(page.locator("#live")).to_have_text("support: succeeded")
    # The button is gone, and the keyboard goes on from where it was.
    expect(page.locator('[data-part="state"]')).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Try it")).to_be_focused()
    assert page.evaluate(FAULTS) == []

    server.refuses = True
    server.drop()
    expect(page.get_by_text("Reconnecting")).to_be_visible()
    server.refuses = False
    expect(page.get_by_text("Reconnecting")).to_be_hidden(timeout=20_000)
    assert len(server.commands("watch")) == 2


def classifier(job: Job) -> ServedModel:
    return ServedModel.objects.create(
        name="ft", path="x", digest="1", architecture="llama", context_length=1, parameters=1, size_bytes=1,
        kind=ServedModel.Kind.CLASSIFIER, base=job.base, workspace=job.workspace,
    )  # fmt: skip


def test_a_classifier_is_tried_on_its_page_as_soon_as_it_is_there_and_what_was_typed_stays(
    page: Page, server: Server, job: Job
) -> None:
    verdicts = [Verdict("w" * 60, 0.75, True), Verdict("billing", 0.25, False)]
    said = {"tried": Tried("Where is it?", verdicts, left_out=3)}
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.post_data or "")
        assert route.request.headers["hx-request"] == "true"
        if len(asked) == 2:
            route.abort()
        else:
            route.fulfill(body=render_to_string("training/job_judged.html", said), content_type="text/html")

    def show() -> None:
        job.refresh_from_db()
        server.send(type="job", job=str(job.pk), html=parts(job))

    page.route("**/try/", answer)
    Job.objects.update(task="classification")
    page.goto(f"/fine-tunes/{job.pk}/")
    while not server.commands("watch"):
        page.wait_for_timeout(10)
    Job.objects.update(state="succeeded", evaluation=classified(), model=classifier(job))
    show()
    text, judge = page.get_by_label("A text to judge"), page.get_by_role("button", name="Judge it")
    text.fill("Where is it?")
    judge.press("Enter")
    expect(page.get_by_text("75.0 %")).to_be_visible()
    expect(page.locator(".verdicts .given")).to_contain_text("www")
    expect(page.get_by_text("3 other labels are less likely.")).to_be_visible()
    assert "Where is it?" in asked[0]
    assert "csrfmiddlewaretoken" in asked[0]
    assert page.evaluate(FAULTS) == []
    for width in (320, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.locator("html").evaluate(WIDE) <= 0
        assert page.locator(".page").evaluate(WIDE) <= 0
    # A connection that comes back brings the whole page again.
    show()
    expect(page.get_by_text("75.0 %")).to_be_visible()
    expect(text).to_have_value("Where is it?")
    judge.click()
    expect(page.get_by_text("That did not reach the server.")).to_be_visible()
    expect(text).to_have_value("Where is it?")
    judge.click()
    expect(page.get_by_text("75.0 %")).to_be_visible()


def test_a_fine_tune_is_begun_by_keyboard_and_without_scripts(
    page: Page, browser: Browser, live_server: Any, job: Job, alice: User
) -> None:
    context = browser.new_context(base_url=live_server.url, java_script_enabled=False)
    context.add_cookies(cookies(alice, live_server.url))
    bare = context.new_page()
    bare.goto("/fine-tunes/")
    bare.get_by_role("link", name="New fine-tune").press("Enter")
    expect(bare.get_by_role("radio", name="Conversations")).to_be_checked()
    bare.get_by_role("button", name="Next").press("Enter")
    bare.get_by_role("radio", name="An adapter").press("ArrowDown")
    expect(bare.get_by_role("radio", name="All weights")).to_be_checked()
    bare.get_by_role("button", name="Next").press("Enter")
    bare.get_by_label("Epochs").fill("1000000")
    bare.locator("#id_name").press("Enter")
    # The browser itself refuses what is out of the range.
    expect(bare.get_by_label("Epochs")).to_be_focused()
    bare.get_by_label("Epochs").fill("2")
    bare.get_by_text("All settings").press("Enter")
    bare.get_by_label("Warm-up").fill("0.1")
    bare.locator("#id_name").fill("By keyboard")
    bare.locator("#id_name").press("Enter")
    expect(bare.get_by_text("queued")).to_be_visible()
    context.close()
    begun = Job.objects.exclude(pk=job.pk).get()
    assert (begun.name, begun.spec["epochs"], begun.spec["warmup"]) == ("By keyboard", 2.0, 0.1)
    assert begun.spec["method"] == "full"


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_no_page_is_wider_than_the_screen_and_everything_has_a_name(width: int, page: Page, job: Job) -> None:
    learn(job, 80)
    evaluation = classified()
    evaluation["labels"][0] = evaluation["classes"][0]["label"] = "w" * 60
    said = {"name": "w" * 64, "data_label": "w" * 160, "error_message": "w" * 300}
    Job.objects.update(state="failed", evaluation=evaluation, **said)
    ServedModel.objects.update(name="w" * 120)
    page.set_viewport_size({"width": width, "height": 800})
    for path in (
        "/fine-tunes/",
        "/fine-tunes/new/",
        f"/fine-tunes/{job.pk}/",
        f"/fine-tunes/new/?job={job.pk}",
        "/fine-tunes/new/method/",
    ):
        page.goto(path)
        page.evaluate(
            "document.querySelectorAll('.page details').forEach((details) => (details.open = true))"
        )
        assert page.locator("html").evaluate(WIDE) <= 0, path
        assert page.locator(".page").evaluate(WIDE) <= 0, path
        # One long name pushes nothing of any row out of sight.
        for table in page.locator(".table-scroll:has(.table-wide)").all():
            assert table.evaluate(WIDE) <= 0, path
        assert page.evaluate(FAULTS) == [], path
