"""From files with faults to an answer of what learnt from them, by the pages alone, on real worker processes in a real
Chromium. What is learnt are conversations that people wrote: the PyPI package chatterbot-corpus."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import Browser, Page, Route, expect

from inference.models import Generation
from tests.browser.conftest import complaints_of
from tests.conftest import new_site
from tests.load.lessons import Messages, chatterbot_topics
from tests.services import REAL, Site, wait_until
from training.datasets.frozen import read_manifest, read_split
from training.models import DatasetVersion, Job, SourceFile

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def data_site() -> Iterator[Site]:
    """With the demo model, in whose tokens lengths are counted, and which learns and answers."""
    site = new_site()
    try:
        site.start(inference=0, model=REAL)
        site.start_inference({"INFERENCE_ENGINE": REAL, "INFERENCE_COMPILE": "false"})
        site.create_owner()
        site.start_data()
        site.start_training()
        wait_until(site.answers, "the web process to answer", 60)
        yield site
    finally:
        site.stop()


@pytest.fixture
def page(browser: Browser, data_site: Site) -> Iterator[Page]:
    """Alice at her data; whatever her browser complains about fails the test."""
    client = data_site.log_in()
    context = browser.new_context(base_url=data_site.base_url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)
    context.add_cookies(
        [{"name": name, "value": value, "url": data_site.base_url} for name, value in client.cookies.items()]
    )
    page = context.new_page()
    complaints = complaints_of(page)
    yield page
    context.close()
    assert [said for said in complaints if "net::ERR_FAILED" not in said] == []


def new_dataset(page: Page, name: str) -> None:
    page.goto("/")
    page.get_by_role("link", name="Data", exact=True).click()
    page.get_by_role("textbox", name="Name").fill(name)
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="Add files")).to_be_visible()


def test_a_file_that_was_chosen_before_the_page_was_ready_is_sent(page: Page, tmp_path: Path) -> None:
    early, late = tmp_path / "early.jsonl", list[Route]()
    early.write_text(json.dumps({"text": "Hello", "label": "greeting"}) + "\n")
    page.route(re.compile(r"/js/upload[.\w]*\.js"), lambda route: late.append(route))
    new_dataset(page, "Early")
    page.locator("#chooser").set_input_files(early)
    late.pop().continue_()
    expect(page.locator("#files bdi")).to_have_text("early.jsonl")


def test_an_upload_goes_on_where_it_was_after_the_connection_was_lost(
    page: Page, data_site: Site, tmp_path: Path
) -> None:
    line = json.dumps({"text": "x" * 90, "label": "greeting"}) + "\n"
    large = tmp_path / "large.jsonl"
    large.write_text(line * (5_000_000 // len(line)))
    sent: list[str] = []
    held: list[Route] = []

    def lose(route: Route) -> None:
        """The second part is under way until the test has seen that, and never arrives the first time."""
        sent.append(route.request.url)
        held.append(route) if len(sent) == 2 else route.continue_()

    new_dataset(page, "Large")
    page.route(re.compile("/content\\?offset="), lose)
    page.locator("#chooser").set_input_files(large)
    bar = page.get_by_role("progressbar", name="large.jsonl")
    expect(bar).to_have_js_property("value", 2 * 2**20 / large.stat().st_size)
    expect(page.locator(".upload-said")).to_have_text("2.1 MB of 5.0 MB")
    held.pop().abort()
    expect(page.locator("#files bdi")).to_have_text("large.jsonl")
    expect(page.locator(".upload")).to_have_count(0)
    offsets = [int(url.split("=")[1]) for url in sent]
    assert offsets == [0, 2 * 2**20, 2 * 2**20, 4 * 2**20]
    with data_site.rows():
        file = SourceFile.objects.get(name="large.jsonl")
    path = data_site.home / "datasets" / str(file.dataset_id) / "sources" / str(file.pk)
    assert path.read_bytes() == large.read_bytes()

    # Several at once, dropped anywhere on the page.
    dropped = page.evaluate_handle(
        """line => {
            const carried = new DataTransfer();
            for (const name of ["one.jsonl", "two.jsonl"]) carried.items.add(new File([line], name));
            return carried;
        }""",
        line,
    )
    page.dispatch_event("main", "drop", {"dataTransfer": dropped})
    expect(page.locator("#files bdi")).to_have_count(3)
    expect(page.locator("#files")).to_contain_text("one.jsonl")


@pytest.fixture(scope="module")
def topics() -> dict[str, list[Messages]]:
    return chatterbot_topics(settings.MODEL_CACHE)


def faulty(topics: dict[str, list[Messages]]) -> list[dict[str, object]]:
    """61 conversations, of which one repeats another; and what goes wrong in a company's own."""
    real = [*topics["ai"][:30], *topics["money"]]
    broken = [
        [
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "Write to ada@example.org, at the cafÃ©."},
        ],
        [{"role": "user", "content": "Hello?"}],
    ]
    return [*({"messages": each} for each in [*real, *broken]), {"prompt": "not a conversation"}]


# Its trainer gives way to everything else that runs.
@pytest.mark.timeout(600)
def test_from_a_file_with_faults_to_a_model_that_has_learnt_it(
    page: Page, data_site: Site, topics: dict[str, list[Messages]], tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in faulty(topics)) + '{"messages": [\n')

    new_dataset(page, "Chats")
    page.locator("#chooser").set_input_files(file)
    page.get_by_role("link", name="See the report").click()

    expect(page.locator(".figures div").filter(has_text="Examples").locator("dd")).to_have_text("65")
    problems = page.locator(".problem")
    page.get_by_role("link", name="Invalid json").click()
    expect(problems).to_have_count(1)
    expect(problems).to_contain_text("chats.jsonl · line 65")
    expect(problems.locator("pre")).to_have_text('{"messages": [')
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    assert "invalid_json,error,chats.jsonl,65" in Path(download.value.path()).read_text("utf-8-sig")
    expect(page.get_by_role("row", name="Email addresses")).to_contain_text("1")

    expect(page.locator(".tokens mark").first).to_contain_text("Art")  # of “Artificial”
    page.get_by_role("link", name="Clean and freeze").click()
    expect(page.get_by_text("Not counted yet")).to_be_visible()
    page.get_by_label("Email addresses").check()
    page.get_by_role("button", name="Count effects").click()
    effects = page.locator(".effect")
    expect(effects.filter(has_text="Leave out repetitions")).to_contain_text("1 left out")
    redacted = effects.filter(has_text="Replace personal data")
    expect(redacted).to_contain_text("1 example changed")
    redacted.get_by_text("Before and after").click()
    expect(redacted).to_contain_text("Write to [EMAIL]")
    expect(page.get_by_label("Email addresses")).to_be_checked()
    other = page.get_by_text("no longer those that were counted")
    page.get_by_label("IP addresses").check()
    expect(other).to_be_visible()
    page.get_by_label("IP addresses").uncheck()
    expect(other).to_be_hidden()

    page.get_by_role("button", name="Freeze a version").click()
    expect(page.get_by_role("heading", name="Version 1")).to_be_visible()
    expect(page.locator("section").filter(has_text="Version 1").get_by_text("ready")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download train.jsonl").click()
    train = Path(download.value.path()).read_text()

    with data_site.rows():
        version = DatasetVersion.objects.get(dataset__name="Chats")
    folder = data_site.home / "datasets" / str(version.dataset_id) / "versions" / str(version.pk)
    manifest = read_manifest(folder)
    assert manifest.content_hash == version.content_hash
    assert version.train + version.validation + version.test == 61
    assert len(list(read_split(folder, "train"))) == version.train == len(train.splitlines())
    frozen = "".join((folder / f"{split}.jsonl").read_text() for split in ("train", "validation", "test"))
    assert "[EMAIL], at the café." in frozen

    # The same once more is the same version.
    page.get_by_role("link", name="Clean", exact=True).click()
    page.get_by_role("button", name="Freeze a version").click()
    expect(page.get_by_text("exactly what version 1 is already")).to_be_visible()
    with data_site.rows():
        assert DatasetVersion.objects.filter(dataset__name="Chats").count() == 1
    learns_and_answers(page, data_site)


@pytest.mark.timeout(600)
def test_a_table_whose_columns_are_said_becomes_a_classifier_with_a_picture_of_its_mistakes(
    page: Page, data_site: Site, topics: dict[str, list[Messages]], tmp_path: Path
) -> None:
    """What a line of the corpus is about."""
    table = tmp_path / "lines.csv"
    with table.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["about", "text", "line"])
        for topic in ("food", "movies", "sports"):
            rows.writerows(
                [topic, f"{topic}.yml, {n}", each[0]["content"]] for n, each in enumerate(topics[topic])
            )

    new_dataset(page, "Lines")
    page.locator("#chooser").set_input_files(table)
    page.get_by_role("link", name="See the report").wait_for()
    page.get_by_role("link", name="Look and correct").click()
    page.get_by_label("What a row is").select_option("labelled")
    page.locator("[name='labelled.text']").select_option("line")
    page.locator("[name='labelled.label']").select_option("about")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("link", name="Check the data again").click()
    page.get_by_role("button", name="Check again").click()
    expect(page.get_by_role("row", name="sports")).to_contain_text("%")

    page.get_by_role("link", name="Clean and freeze").click()
    page.get_by_label("For the test, in %").fill("30")
    page.get_by_role("button", name="Freeze a version").click()
    expect(page.get_by_text("had not been counted")).to_be_visible()
    page.get_by_text("What each step did", exact=True).click()
    expect(page.locator(".effect").filter(has_text="Leave out repetitions")).to_be_visible()

    page.get_by_role("link", name="Fine-tune Version 1").click()
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("All settings").click()
    page.get_by_label("Steps at most").fill("2")
    page.get_by_label("Longest example").fill("16")
    page.get_by_role("button", name="Start").click()
    matrix = page.get_by_role("region", name="Confusion matrix").first
    expect(matrix.locator("svg")).to_be_visible(timeout=400_000)
    with data_site.rows():
        found = Job.objects.get(version__dataset__name="Lines").evaluation
    assert (found["split"], found["labels"]) == ("test", ["food", "movies", "sports"])
    drawn = [int(text) for text in matrix.locator("g text").all_text_contents()]
    assert sum(drawn) == sum(map(sum, found["confusion"])) == found["examples"] > 10
    expect(page.get_by_role("heading", name="ROC curve")).to_be_visible()


def learns_and_answers(page: Page, site: Site) -> None:
    """From the frozen version on the page: some steps, a curve that grows, and a chat with what came of it."""
    page.get_by_role("link", name="Fine-tune Version 1").click()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("radio", name="An adapter")).to_be_checked()
    page.get_by_role("button", name="Next").click()
    page.get_by_role("textbox", name="Name").fill("Chats")
    page.get_by_text("All settings").click()
    page.get_by_label("Steps at most").fill("4")
    # Asked after each step, they are most of what it computes.
    page.get_by_label("Length of sample answers").fill("16")
    page.get_by_label("Asked at each checkpoint").fill("What is AI?")
    page.get_by_role("button", name="Start").click()

    curve = page.locator(".losses .serie-0 .line")
    expect(curve).to_be_visible(timeout=300_000)
    page.reload()
    expect(curve).to_be_visible()
    # It goes on by itself to the end, without a reload.
    page.get_by_role("link", name="Try it").wait_for(timeout=400_000)
    expect(page.locator(".losses .serie-1 .line")).to_be_visible()
    with site.rows():
        job = Job.objects.get(version__dataset__name="Chats")
        assert job.best_validation_loss < job.base_validation_loss
        before, after = (job.samples.get(step=step).answer for step in (0, job.best_step))
    assert before != after
    expect(page.get_by_text(before[:40]).first).to_be_visible()

    page.get_by_role("link", name="Try it").click()
    page.wait_for_url("**/?model=*", wait_until="load")
    page.get_by_role("textbox", name="Your message").fill("What is AI?")
    page.keyboard.press("Enter")
    reply = page.locator("article.message-assistant[data-state=complete]")
    expect(reply.locator(".model")).to_have_text("Chats")
    expect(reply.locator(".reply")).not_to_be_empty()
    with site.rows():
        answered = Generation.objects.get(chat_message__isnull=False)
        assert answered.model_id == job.model_id
